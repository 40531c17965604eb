"""CycleQD (Kuroki et al., 2025): one MAP-Elites archive per task, every task in turn. https://arxiv.org/abs/2410.14735."""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from evomerge.optimizers._quasi_random import sobol_point
from evomerge.optimizers.base import FloatArray, Observation, Optimizer, OptimizerError, Proposal

#: Factors on a parent's probability for the worst and the best loss in an archive (the paper's alphas).
_LOW, _HIGH = 0.5, 0.8


class CycleQD(Optimizer):
    """Crosses elites of one task that differ on the others, cycling through the tasks.

    A task's archive has a cell for every combination of the other tasks' losses, each divided into `bins` equal bins
    between the best and the worst so far; a cell holds the candidate that is best at the task. Trial `number` belongs
    to task number % n_objectives: two elites are drawn, with higher probability the better they are on all tasks; their
    child is their mean with random weights around 1, then mutated. Two or more objectives.

    The paper mutates weight matrices along the singular vectors of an expert's task vector, by U(0, 0.1) of the
    singular values. Coefficients cannot do that to a matrix, so this is a mutation of the same form on points: along
    the singular vectors of the elites' centered points, by +-U(0, `mutation`) of the singular values, large where
    elites differ and zero where they agree.

    Args:
        bins: Bins per objective of an archive.
        crossover: Standard deviation of the parents' weights; the released 0.01 is nearly the plain mean.
        mutation: Largest step, as a fraction of the singular values. 0.2 beat random search on two, three and four
            objectives; 0.1 is better on more objectives and 0.3 on two.
        n_startup_trials: Successful trials, baselines included, before the first crossover; until then, Sobol points.
    """

    min_objectives: ClassVar[int] = 2
    max_objectives: ClassVar[int | None] = None

    def __init__(
        self,
        dimension: int,
        n_objectives: int,
        seed: int,
        start: FloatArray | None = None,
        *,
        bins: int = 15,
        crossover: float = 0.01,
        mutation: float = 0.2,
        n_startup_trials: int = 10,
    ) -> None:
        super().__init__(dimension, n_objectives, seed, start)
        if bins < 1 or n_startup_trials < 2:
            raise OptimizerError(
                f"bins must be at least 1 and n_startup_trials at least 2; they are {bins} and {n_startup_trials}."
            )
        if crossover < 0.0 or not 0.0 <= mutation <= 1.0:
            raise OptimizerError(
                f"crossover must be at least 0 and mutation lie in [0, 1]; they are {crossover} and {mutation}."
            )
        self._bins = bins
        self._crossover = crossover
        self._mutation = mutation
        self._n_startup_trials = n_startup_trials
        self._points: list[FloatArray] = []
        self._losses: list[FloatArray] = []

    def _ask(self, number: int, pending: Mapping[int, FloatArray]) -> Proposal:  # noqa: ARG002 - contract
        elites = self._elites(number % self.n_objectives) if len(self._points) >= self._n_startup_trials else []
        if len(elites) < 2:
            return Proposal(sobol_point(self.dimension, self.seed, number))
        rng = self._rng(number)
        parents = rng.choice(elites, size=2, replace=False, p=_chances(np.array(self._losses)[elites]))
        weights = np.abs(rng.normal(1.0, self._crossover, 2))
        child = weights @ np.array(self._points)[parents] / weights.sum()
        return Proposal(np.clip(child + self._step(np.array(self._points)[elites], rng), 0.0, 1.0))

    def _tell(self, observation: Observation) -> None:
        if observation.losses is not None:
            self._points.append(observation.x)
            self._losses.append(observation.losses)

    def _elites(self, task: int) -> list[int]:
        """Return the indices of told trials that hold the cells of a task's archive; the first of equal ones."""
        losses = np.array(self._losses)
        others = np.delete(_scaled(losses), task, axis=1)
        cells = np.minimum((others * self._bins).astype(np.int64), self._bins - 1)
        best: dict[tuple[int, ...], int] = {}
        for index, cell in enumerate(map(tuple, cells.tolist())):
            if cell not in best or losses[index, task] < losses[best[cell], task]:
                best[cell] = index
        return sorted(best.values())

    def _step(self, points: FloatArray, rng: np.random.Generator) -> FloatArray:
        """Return the mutation, (dimension,); points: (n_elites, dimension)."""
        _, singular, directions = np.linalg.svd(points - points.mean(axis=0), full_matrices=False)
        sizes = rng.uniform(0.0, self._mutation, len(singular)) * rng.choice([-1.0, 1.0], len(singular))
        return np.asarray((sizes * singular) @ directions)


def _scaled(losses: FloatArray) -> FloatArray:
    """Scale losses (n_points, n_objectives) to [0, 1], from the best to the worst so far."""
    best = losses.min(axis=0)
    span = losses.max(axis=0) - best
    return np.asarray((losses - best) / np.where(span > 0.0, span, 1.0))


def _chances(losses: FloatArray) -> FloatArray:
    """Return the probability of drawing each elite, (n_elites,): a product over all tasks."""
    factors = _LOW + (1.0 - _scaled(losses)) * (_HIGH - _LOW)
    chances = factors.prod(axis=1)
    return np.asarray(chances / chances.sum())
