"""Random search (Bergstra and Bengio, 2012). https://www.jmlr.org/papers/v13/bergstra12a.html."""

from collections.abc import Mapping
from typing import ClassVar

from evomerge.optimizers.base import FloatArray, Observation, Optimizer, Proposal


class RandomSearch(Optimizer):
    """Independent uniform points: the baseline that every optimizer must beat."""

    max_objectives: ClassVar[int | None] = None

    def _ask(self, number: int, pending: Mapping[int, FloatArray]) -> Proposal:  # noqa: ARG002 - contract
        return Proposal(self._rng(number).random(self.dimension))

    def _tell(self, observation: Observation) -> None:
        """Do nothing: random search does not learn."""
