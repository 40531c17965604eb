"""Successive halving (Jamieson and Talwalkar, 2016). https://arxiv.org/abs/1502.07943."""

from collections.abc import Mapping
from functools import cached_property

from evomerge.optimizers._brackets import Bracket, Brackets
from evomerge.optimizers._rungs import MultiFidelity
from evomerge.optimizers.base import FloatArray, Proposal


class SuccessiveHalving(MultiFidelity):
    """Scores many random candidates on few examples, and the best third of each rung on three times as many.

    eta^s candidates enter on the lowest of s + 1 rungs, eta^(s-1) climb to the next, and one is scored on all examples;
    then the next bracket begins. With several workers, candidates enter the next bracket while one waits for results.
    One objective, `objective: mean` without `keep`.

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
        top = self._rungs.top
        return Brackets([Bracket(0, self._eta**top)], top, self._eta)
