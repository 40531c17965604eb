"""Hyperband (Li et al., 2018). https://arxiv.org/abs/1603.06560.

Notation: S rungs; bracket s has its entry rung s below the top, and n = ceil(S / (s + 1) eta^s) candidates.
"""

from collections.abc import Mapping
from functools import cached_property

from evomerge.optimizers._brackets import Bracket, Brackets
from evomerge.optimizers._rungs import MultiFidelity
from evomerge.optimizers.base import FloatArray, Proposal


class Hyperband(MultiFidelity):
    """Successive halving with several entry rungs, for tasks where few examples may mislead.

    The first bracket enters on the lowest rung, the next one rung higher with fewer candidates, and the last scores its
    candidates on all examples; then it starts again. All brackets cost about the same. With several workers, candidates
    enter the next bracket while one waits for results. One objective, `objective: mean` without `keep`.

    Args:
        eta: Ratio of the sizes of two neighboring rungs.
        least: Fewest examples of the lowest rung.
    """

    def _ask(self, number: int, pending: Mapping[int, FloatArray]) -> Proposal:
        candidates = self._candidates.values()
        new, climbing = self._pending(pending)
        climber = self._brackets.climber(candidates, new, climbing)
        if climber is not None:
            return self._climb(climber)
        return self._enter(self._brackets.entry(candidates, new), self._uniform(number), pending)

    @cached_property
    def _brackets(self) -> Brackets:
        top, eta = self._rungs.top, self._eta
        sizes = {s: -(-(top + 1) * eta**s // (s + 1)) for s in range(top, -1, -1)}
        return Brackets([Bracket(top - s, size) for s, size in sizes.items()], top, eta)
