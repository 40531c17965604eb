"""Rungs: candidates are scored on growing prefixes of one order of the search examples, and the better ones climb.

The order is random but fixed, with the tasks in proportion in every prefix. A candidate that climbs is scored on the
examples that the next prefix adds, and the last rung holds all examples: what arrives there is an ordinary trial.

Notation: eta is the ratio of the sizes of two neighboring rungs (Jamieson and Talwalkar, 2016,
https://arxiv.org/abs/1502.07943); rung 0 is the lowest. A failed candidate has an infinite loss on the rung it failed.
"""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import ClassVar

import numpy as np

from evomerge.optimizers.base import (
    Exhausted,
    FloatArray,
    Measures,
    Observation,
    Optimizer,
    OptimizerError,
    Proposal,
    Rows,
    TaskExamples,
)
from evomerge.statistics.stratified import interleaved

#: Points to try before a space is declared exhausted.
_N_TRIES = 200
#: Fewest examples of the lowest rung.
LEAST = 20
#: Ratio of the sizes of two neighboring rungs, in all four papers.
ETA = 3


class Rungs:
    """The examples of each rung.

    Args:
        tasks: The tasks in their order.
        seed: Key of the order of the examples.
        eta: Ratio of the sizes of two neighboring rungs.
        least: Fewest examples of the lowest rung, which also holds an example of every task that has a weight.

    Raises:
        OptimizerError: There are too few examples for two rungs.

    Example:
        >>> rungs = Rungs([TaskExamples("math", 180, 0.5), TaskExamples("chat", 90, 0.5)], seed=0, eta=3, least=20)
        >>> rungs.sizes
        (30, 90, 270)
        >>> [len(rows) for rows in rungs.rows(0)]
        [20, 10]
    """

    def __init__(self, tasks: Sequence[TaskExamples], seed: int, eta: int, least: int) -> None:
        self._counts = [task.n_examples for task in tasks]
        self._shares = [task.share for task in tasks]
        self._order = interleaved(self._counts, seed)
        total = len(self._order)
        first = {task: place for place, (task, _) in reversed(list(enumerate(self._order)))}
        weighted = [first[task] + 1 for task, share in enumerate(self._shares) if share > 0 and task in first]
        lowest = max([least, *weighted])
        below = 0
        while total >= lowest * eta ** (below + 1):
            below += 1
        self.sizes: tuple[int, ...] = tuple(round(total / eta**rung) for rung in range(below, -1, -1))
        if not below:
            raise OptimizerError(
                f"Rungs need at least {lowest * eta} examples on the search split, so that {lowest} tell candidates "
                f"apart; there are {total}. Use another optimizer, such as cma_es, or lower `least` or `eta`."
            )
        self._rung_of = {size: rung for rung, size in enumerate(self.sizes)}

    @property
    def top(self) -> int:
        """The rung of all examples."""
        return len(self.sizes) - 1

    def rows(self, rung: int, above: int | None = None) -> Rows:
        """Return the examples of a rung, by task in ascending order; only those that a rung below lacks, if given."""
        begin = 0 if above is None else self.sizes[above]
        chosen: list[list[int]] = [[] for _ in self._counts]
        for task, row in self._order[begin : self.sizes[rung]]:
            chosen[task].append(row)
        return tuple(tuple(sorted(rows)) for rows in chosen)

    def rung_of(self, n_examples: int) -> int | None:
        """Return the rung with this number of examples; None if there is none."""
        return self._rung_of.get(n_examples)

    def loss(self, values: Sequence[FloatArray], rung: int) -> float:
        """Return the loss of a candidate on a rung; values: losses of examples, one array (n_examples,) per task."""
        means = [
            share * float(of_task[list(rows)].mean()) if share > 0 and rows else 0.0
            for share, of_task, rows in zip(self._shares, values, self.rows(rung), strict=True)
        ]
        return math.fsum(means)

    def unscored(self) -> list[FloatArray]:
        """Return losses of examples, NaN where none is known, one array (n_examples,) per task."""
        return [np.full(count, np.nan) for count in self._counts]


@dataclass(eq=False)
class Candidate:
    """A point and its losses by rung.

    number: number of its first trial. entered: rung of that trial; None for points that were not proposed here.
    last: number of its last trial. values: losses of its examples, see `Rungs.unscored`.
    """

    number: int
    x: FloatArray
    entered: int | None
    last: int
    values: list[FloatArray]
    losses: dict[int, float] = field(default_factory=dict)

    @property
    def rung(self) -> int:
        """The highest rung with a result."""
        return max(self.losses)


class MultiFidelity(Optimizer):
    """The part that optimizers with rungs share: which candidates there are, and how each stands on its rungs.

    Args:
        eta: Ratio of the sizes of two neighboring rungs.
        least: Fewest examples of the lowest rung.
    """

    uses_parts: ClassVar[bool] = True
    max_objectives: ClassVar[int | None] = 1

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
        super().__init__(dimension, n_objectives, seed, start)
        if eta < 2:
            raise OptimizerError(f"eta must be at least 2; it is {eta}.")
        if least < 1:
            raise OptimizerError(f"least must be at least 1 example; it is {least}.")
        self._eta, self._least = eta, least
        #: By `key` of their points, in the order in which they were first told.
        self._candidates: dict[bytes, Candidate] = {}

    def inform(self, measures: Measures) -> None:
        """Lay out the rungs. Raises OptimizerError where parts cannot be compared, or the examples are too few."""
        if measures.no_parts is not None:
            raise OptimizerError(measures.no_parts)
        self._all_rungs = Rungs(measures.tasks, self.seed, self._eta, self._least)
        super().inform(measures)

    def decisions(self) -> tuple[str, ...]:
        """Return the sizes of the rungs, once they are known."""
        if self.measures is None:
            return ()
        *lower, last = map(str, self._rungs.sizes)
        return (f"Candidates are scored on {', '.join(lower)} and {last} search examples, the better ones on more",)

    @property
    def _rungs(self) -> Rungs:
        if self.measures is None:
            raise OptimizerError(f"{type(self).__name__} needs to know the search examples: call `inform` first.")
        return self._all_rungs

    def _tell_part(self, observation: Observation) -> None:
        rows = observation.rows or ()
        candidate = self._candidate(observation)
        before = self._rungs.sizes[candidate.rung] if candidate.losses else 0
        size = before + sum(map(len, rows))
        rung = self._rungs.rung_of(size)
        if rung is None:
            raise OptimizerError(f"Trial {observation.number} scored {size} examples; expected {self._rungs.sizes}.")
        failed = not observation.examples
        for known, of_task, values in zip(candidate.values, rows, observation.examples, strict=not failed):
            known[list(of_task)] = values
        candidate.losses[rung] = math.inf if failed else self._rungs.loss(candidate.values, rung)
        candidate.entered = rung if candidate.entered is None else candidate.entered
        self._took(candidate, rung)

    def _tell(self, observation: Observation) -> None:
        new = self.key(observation.x) not in self._candidates
        candidate, rungs = self._candidate(observation), self._rungs
        if new and observation.losses is not None:
            candidate.losses |= self._losses_below(observation)
        candidate.losses[rungs.top] = math.inf if observation.losses is None else float(observation.losses[0])
        if new and observation.proposed:
            candidate.entered = rungs.top
        for rung in sorted(candidate.losses) if new else (rungs.top,):
            self._took(candidate, rung)

    def _losses_below(self, observation: Observation) -> dict[int, float]:
        """Return the losses of a whole candidate on the lower rungs; none where its examples have duplicates."""
        rungs, values = self._rungs, observation.examples
        expected = [len(of_task) for of_task in rungs.unscored()]
        if observation.proposed or [len(of_task) for of_task in values] != expected:
            return {}
        return {rung: rungs.loss(values, rung) for rung in range(rungs.top)}

    def _candidate(self, observation: Observation) -> Candidate:
        key, number = self.key(observation.x), observation.number
        if key not in self._candidates:
            self._candidates[key] = Candidate(number, observation.x, None, number, self._rungs.unscored())
        self._candidates[key].last = number
        return self._candidates[key]

    def _took(self, candidate: Candidate, rung: int) -> None:
        """Learn from a new result of a candidate on a rung."""

    def _pending(self, pending: Mapping[int, FloatArray]) -> tuple[list[int], list[Candidate]]:
        """Return the numbers of the pending trials of new candidates, and the candidates that climb."""
        known = {number: self._candidates.get(self.key(x)) for number, x in pending.items()}
        new = [number for number, candidate in known.items() if candidate is None]
        return new, [candidate for candidate in known.values() if candidate is not None]

    def _enter(self, rung: int, points: Iterator[FloatArray], pending: Mapping[int, FloatArray]) -> Proposal:
        """Return a new candidate on a rung: the first of `points` that is neither known nor pending."""
        taken = {self.key(x) for x in pending.values()}
        for x in islice(points, _N_TRIES):
            key = self.key(x)
            if key not in self._candidates and key not in taken and not self.knows(x):
                return Proposal(x, rows=None if rung == self._rungs.top else self._rungs.rows(rung))
        raise Exhausted(f"{type(self).__name__} found no new candidate; {len(self._candidates)} have been told.")

    def _climb(self, candidate: Candidate) -> Proposal:
        """Return the next trial of a candidate: the examples that the next rung adds."""
        rung, rungs = candidate.rung + 1, self._rungs
        rows = None if rung == rungs.top else rungs.rows(rung, above=candidate.rung)
        return Proposal(candidate.x, rows=rows, extends=candidate.last)

    def _uniform(self, number: int) -> Iterator[FloatArray]:
        """Yield the start, then uniform points keyed by a trial's number, without end."""
        yield self.start
        rng = self._rng(number)
        while True:
            yield rng.random(self.dimension)


def best(members: Sequence[Candidate], rung: int, n: int) -> list[Candidate]:
    """Return the n best members on a rung, best first; equal ones in the order of their numbers, failed ones never."""
    succeeded = [member for member in members if math.isfinite(member.losses.get(rung, math.inf))]
    return sorted(succeeded, key=lambda member: (member.losses[rung], member.number))[:n]


def promoted(
    candidates: Collection[Candidate], top: int, eta: int, climbing: Collection[Candidate]
) -> Candidate | None:
    """Return the candidate that climbs next without waiting for others; None where there is none.

    Rungs are searched from the highest down for a candidate in the best 1/eta that has not climbed yet.

    Args:
        candidates: All candidates so far.
        top: The rung of all examples.
        eta: Ratio of the sizes of two neighboring rungs.
        climbing: Candidates whose next result is pending.
    """
    for rung in reversed(range(top)):
        here = [candidate for candidate in candidates if rung in candidate.losses]
        for candidate in best(here, rung, len(here) // eta):
            if rung + 1 not in candidate.losses and candidate not in climbing:
                return candidate
    return None
