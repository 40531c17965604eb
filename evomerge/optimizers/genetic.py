"""Steady-state genetic algorithm, as LCSC searches coefficients of checkpoints. https://arxiv.org/abs/2404.02241."""

from bisect import insort
from collections.abc import Mapping

import numpy as np

from evomerge.optimizers.base import FloatArray, Observation, Optimizer, OptimizerError, Proposal

#: Candidates that a parent is the best of.
_TOURNAMENT = 2


class Genetic(Optimizer):
    """Crosses two good points and adds a Gaussian step; the population are the best points so far. One objective.

    For few coefficients, such as those of a run's checkpoints, where averages are good members of the first
    population: baselines and the start belong to it like every candidate, so moving averages (EMA) seed it as in the
    paper. Each parent is the better of two members that are drawn at random. A child takes each coordinate from
    either parent, or lies on the line between them, with equal probability. Populations, steps and tournaments
    are settings of this implementation.

    Args:
        popsize: Size of the population. A new point replaces the worst one, if it is better.
        sigma: Standard deviation of the step, as a fraction of a coefficient's range.
    """

    def __init__(
        self,
        dimension: int,
        n_objectives: int,
        seed: int,
        start: FloatArray | None = None,
        *,
        popsize: int = 16,
        sigma: float = 0.05,
    ) -> None:
        super().__init__(dimension, n_objectives, seed, start)
        if popsize < 2:
            raise OptimizerError(f"popsize must be at least 2, since a child has two parents; it is {popsize}.")
        if not 0.0 < sigma <= 1.0:
            raise OptimizerError(f"sigma must lie in (0, 1], in cube widths; it is {sigma}.")
        self._popsize, self._sigma = popsize, sigma
        #: (loss, place in the order of tells, point), best first; of equal losses, the earlier one.
        self._population: list[tuple[float, int, FloatArray]] = []
        self._n_told = 0

    def _ask(self, number: int, pending: Mapping[int, FloatArray]) -> Proposal:  # noqa: ARG002 - contract
        rng = self._rng(number)
        child = self._child(rng) if len(self._population) > 1 else self.start
        return Proposal(_reflected(child + self._sigma * rng.standard_normal(self.dimension)))

    def _tell(self, observation: Observation) -> None:
        self._n_told += 1
        if observation.losses is None:
            return
        insort(self._population, (float(observation.losses[0]), self._n_told, observation.x), key=lambda each: each[:2])
        del self._population[self._popsize :]

    def _child(self, rng: np.random.Generator) -> FloatArray:
        """Return the crossing of two parents, (dimension,)."""
        first, second = self._parent(rng), self._parent(rng)
        if rng.random() < 0.5:
            return np.where(rng.random(self.dimension) < 0.5, first, second)
        share = rng.random()
        return share * first + (1.0 - share) * second

    def _parent(self, rng: np.random.Generator) -> FloatArray:
        """Return the best of a few random members of the population, which is sorted, (dimension,)."""
        return self._population[int(rng.integers(len(self._population), size=_TOURNAMENT).min())][2]


def _reflected(x: FloatArray) -> FloatArray:
    """Reflect a point at the faces of the cube, so that steps do not pile up there, (dimension,)."""
    return np.clip(1.0 - np.abs(1.0 - np.abs(x)), 0.0, 1.0)
