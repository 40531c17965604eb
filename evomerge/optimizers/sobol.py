"""Sobol sequence with Owen's scrambling (Owen, 1998). https://doi.org/10.1006/jcom.1998.0487."""

from collections.abc import Mapping
from typing import ClassVar

from evomerge.optimizers._quasi_random import sobol_point
from evomerge.optimizers.base import FloatArray, Observation, Optimizer, Proposal


class Sobol(Optimizer):
    """Evenly spread points: a trial's number is its index in one scrambled sequence.

    Baselines use up numbers, whose points are skipped; the rest is balanced except for those few.
    """

    max_objectives: ClassVar[int | None] = None

    def _ask(self, number: int, pending: Mapping[int, FloatArray]) -> Proposal:  # noqa: ARG002 - contract
        return Proposal(sobol_point(self.dimension, self.seed, number))

    def _tell(self, observation: Observation) -> None:
        """Do nothing: the sequence does not depend on the observations."""
