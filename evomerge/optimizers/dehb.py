"""DEHB (Awad et al., 2021): differential evolution with a subpopulation on each rung. https://arxiv.org/abs/2105.09821.

Settings of the authors' code (https://github.com/automl/DEHB): rand1_bin, F = 0.5, Cr = 0.5, eta = 3; coordinates that
leave the cube are drawn anew; S rungs, and bracket s begins with floor(S / (s + 1)) eta^s candidates.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import numpy as np

from evomerge.optimizers._brackets import Bracket, Schedule, entries
from evomerge.optimizers._rungs import ETA, LEAST, Candidate, MultiFidelity, best
from evomerge.optimizers.base import FloatArray, Proposal

#: Weight of the difference of two points, and share of the coordinates that come from the mutant.
_F, _CR = 0.5, 0.5
#: Parents of a mutant.
_PARENTS = 3
#: Children to try before a uniform point takes their place.
_CHILDREN = 100


@dataclass(frozen=True)
class _Slot:
    """A child on a rung, bred from the best `n_parents` of the rung `source`."""

    rung: int
    source: int
    n_parents: int


class Dehb(MultiFidelity):
    """Breeds candidates for a rung from the best of the rung below.

    The first bracket is successive halving of random candidates. Each later bracket breeds its candidates: a mutant of
    three of the best on the rung below, crossed with a member of the subpopulation on its own rung, which the child
    replaces unless it scores worse on the examples of that rung. Children start with the examples of their rung, and
    those on the last rung are scored on all examples. One objective, `objective: mean` without `keep`.

    Differs from the authors' code so that proposals follow from the history alone: a subpopulation fills with the first
    results on its rung, baselines included, instead of starting with random members; the member that a child may
    replace is drawn by the trial's number instead of in turn; a rung of a later bracket breeds from the results that
    there are, without waiting for the rung below; promotions end with the first bracket, as in the paper.

    Args:
        eta: Ratio of the sizes of two neighboring rungs.
        least: Fewest examples of the lowest rung.
    """

    def __init__(
        self,
        dimension: int,
        n_objectives: int,
        seed: int,
        start: FloatArray | None = None,
        *,
        eta: int = ETA,
        least: int = LEAST,
    ) -> None:
        super().__init__(dimension, n_objectives, seed, start, eta=eta, least=least)
        self._populations: dict[int, list[Candidate]] = {}

    @cached_property
    def _first(self) -> Bracket:
        return Bracket(0, self._eta**self._rungs.top)

    @cached_property
    def _slots(self) -> tuple[_Slot, ...]:
        """The slots of the brackets after the first one, which are repeated."""
        top, eta, slots = self._rungs.top, self._eta, []
        for s in (*reversed(range(top)), top):
            size = (top + 1) // (s + 1) * eta**s
            for above in range(s + 1):
                rung, n = top - s + above, size // eta**above
                slots += n * [_Slot(rung, max(rung - 1, top - s), n)]
        return tuple(slots)

    @cached_property
    def _schedule(self) -> Schedule:
        return Schedule(tuple(slot.rung for slot in self._slots), first=(0,) * self._first.size)

    @cached_property
    def _sizes(self) -> Mapping[int, int]:
        """The sizes of the subpopulations by rung: the most candidates that a bracket has there."""
        return {rung: max(s.n_parents for s in self._slots if s.rung == rung) for rung in range(self._rungs.top + 1)}

    def _ask(self, number: int, pending: Mapping[int, FloatArray]) -> Proposal:
        new, climbing = self._pending(pending)
        entered = entries(self._candidates.values(), new, self._schedule)
        lowest = [candidate for rung, candidate in entered if rung == 0][: self._first.size]
        members = [candidate for candidate in lowest if candidate is not None]
        if len(members) == self._first.size:
            climber = self._first.climber(members, self._rungs.top, self._eta, climbing)
            if climber is not None:
                return self._climb(climber)
        place = self._schedule.free(Counter(rung for rung, _ in entered)) - self._first.size
        if place < 0:
            return self._enter(0, self._uniform(number), pending)
        slot = self._slots[place % len(self._slots)]
        return self._enter(slot.rung, self._children(number, slot), pending)

    def _took(self, candidate: Candidate, rung: int) -> None:
        """Give a new result its place in the subpopulation of its rung, if it is good enough."""
        if not best([candidate], rung, 1):
            return
        population = self._populations.setdefault(rung, [])
        if len(population) < self._sizes[rung]:
            population.append(candidate)
            return
        target = self._target(self._rng(candidate.last), rung)
        if candidate.losses[rung] <= population[target].losses[rung]:
            population[target] = candidate

    def _target(self, rng: np.random.Generator, rung: int) -> int:
        """Return the place of the member that a trial's child competes with; rng: of the trial, undrawn."""
        return int(rng.random() * len(self._populations[rung]))

    def _children(self, number: int, slot: _Slot) -> Iterator[FloatArray]:
        """Yield children for a slot, keyed by the trial's number, then uniform points without end."""
        rng = self._rng(number)
        population = self._populations.get(slot.rung)
        if population:
            target = population[self._target(rng, slot.rung)].x
            for _ in range(_CHILDREN):
                yield self._crossed(target, self._mutant(self._parents(slot, rng), rng), rng)
        yield from islice(self._uniform(number), 1, None)

    def _parents(self, slot: _Slot, rng: np.random.Generator) -> list[FloatArray]:
        """Return three different points: of the best on the source rung, else of any rung, else random ones."""
        pool = best(self._populations.get(slot.source, []), slot.source, slot.n_parents)
        if len(pool) < _PARENTS:
            others = [member for _, members in sorted(self._populations.items()) for member in members]
            left = list(dict.fromkeys(member for member in others if member not in pool))
            pool += [left[i] for i in rng.permutation(len(left))[: _PARENTS - len(pool)]]
        chosen = [pool[i].x for i in rng.permutation(len(pool))[:_PARENTS]]
        return [*chosen, *rng.random((_PARENTS - len(chosen), self.dimension))]

    def _mutant(self, parents: list[FloatArray], rng: np.random.Generator) -> FloatArray:
        mutant = parents[0] + _F * (parents[1] - parents[2])
        return np.where((mutant < 0.0) | (mutant > 1.0), rng.random(self.dimension), mutant)

    def _crossed(self, target: FloatArray, mutant: FloatArray, rng: np.random.Generator) -> FloatArray:
        taken = rng.random(self.dimension) < _CR
        taken[rng.integers(self.dimension)] = True
        return np.where(taken, mutant, target)
