"""ASHA, asynchronous successive halving (Li et al., 2020). https://arxiv.org/abs/1810.05934."""

from collections.abc import Mapping

from evomerge.optimizers._rungs import MultiFidelity, promoted
from evomerge.optimizers.base import FloatArray, Proposal


class Asha(MultiFidelity):
    """Successive halving for many workers: a candidate climbs as soon as it is in the best third of its rung.

    No worker waits for a rung to fill: where no candidate may climb, a new random one enters on the lowest rung. The
    price is that some climb early that a full rung would not have let pass. Baselines count on every rung, so that
    candidates worse than they are climb late. One objective, `objective: mean` without `keep`.

    Args:
        eta: Ratio of the sizes of two neighboring rungs.
        least: Fewest examples of the lowest rung.
    """

    def _ask(self, number: int, pending: Mapping[int, FloatArray]) -> Proposal:
        _, climbing = self._pending(pending)
        climber = promoted(self._candidates.values(), self._rungs.top, self._eta, climbing)
        if climber is not None:
            return self._climb(climber)
        return self._enter(0, self._uniform(number), pending)
