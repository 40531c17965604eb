"""M2N2 (Abrantes et al., 2025): niches by competition over examples, mates by attraction. https://arxiv.org/abs/2508.16204.

Notation: s (n_members, n_examples) scores of at least 0, c (n_examples,) capacities, z (n_examples,) sums of s.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from evomerge.optimizers._quasi_random import sobol_point
from evomerge.optimizers.base import FloatArray, Observation, Optimizer, OptimizerError, Proposal

#: Avoids division by zero for an example that no member solves.
_EPSILON = 1e-12


class NaturalNiches(Optimizer):
    """Crosses complementary candidates, and keeps those that solve examples few others solve.

    The archive holds the `population` points with the largest shared fitness f_i = sum_j c_j s_ij / sum_i s_ij; each
    trial immediately replaces the least fit member, so no worker waits. The first parent is drawn in proportion to f,
    the second in proportion to sum_j c_j max(s_Bj - s_Aj, 0) / sum_i s_ij. A child is their SLERP, by t before a random
    coordinate and by 1 - t from there on, plus Gaussian noise (the paper mutates only untrained models; here mutation
    is the only way to leave the span of the observations).

    Supports any number of objectives. Scores are negated example losses if these lie in [-1, 0] (accuracies), otherwise
    min-max scaled over the archive per example; without examples, the objectives themselves are the examples, min-max
    scaled. Every task has the same total capacity, or its preference if every task is an objective.

    Args:
        population: Size of the archive.
        mutation: Standard deviation of the noise, in cube widths; 0.1 covered more than 0.03, 0.05 and 0.15 at 7 and 20
            coordinates.
        n_startup_trials: Members of the archive, baselines included, before the first crossover; until then, Sobol
            points.
    """

    max_objectives: ClassVar[int | None] = None

    def __init__(
        self,
        dimension: int,
        n_objectives: int,
        seed: int,
        start: FloatArray | None = None,
        *,
        population: int = 20,
        mutation: float = 0.1,
        n_startup_trials: int = 10,
    ) -> None:
        super().__init__(dimension, n_objectives, seed, start)
        if not 2 <= n_startup_trials <= population:
            raise OptimizerError(
                f"n_startup_trials must lie between 2 and the population of {population}; it is {n_startup_trials}."
            )
        if not 0.0 <= mutation <= 1.0:
            raise OptimizerError(f"mutation must lie in [0, 1], in cube widths; it is {mutation}.")
        self._population = population
        self._mutation = mutation
        self._n_startup_trials = n_startup_trials
        self._archive: list[Observation] = []

    def _ask(self, number: int, pending: Mapping[int, FloatArray]) -> Proposal:  # noqa: ARG002 - contract
        if len(self._archive) < self._n_startup_trials:
            return Proposal(sobol_point(self.dimension, self.seed, number))
        rng = self._rng(number)
        shared = self._shared()
        first = int(rng.choice(len(shared), p=_shares(shared.sum(axis=1))))
        attraction = np.maximum(shared - shared[first], 0.0).sum(axis=1)
        second = int(rng.choice(len(shared), p=_shares(attraction)))
        child = _cross(self._archive[first].x, self._archive[second].x, rng)
        noise = self._mutation * rng.standard_normal(self.dimension)
        return Proposal(np.clip(child + noise, 0.0, 1.0))

    def _tell(self, observation: Observation) -> None:
        if observation.losses is None:
            return
        self._archive.append(observation)
        if len(self._archive) > self._population:
            # The oldest of equally fit members is removed.
            self._archive.pop(int(self._shared().sum(axis=1).argmin()))

    def _shared(self) -> FloatArray:
        """Return each member's share of each example, (n_members, n_examples)."""
        tasks = _by_task(self._archive)
        capacities = self.preference if len(tasks) == self.n_objectives else np.full(len(tasks), 1.0 / len(tasks))
        shared = []
        for capacity, losses in zip(capacities, tasks, strict=True):
            scores = _scores(losses)
            shared.append(capacity / losses.shape[1] * scores / (scores.sum(axis=0) + _EPSILON))
        return np.concatenate(shared, axis=1)


def _by_task(members: Sequence[Observation]) -> list[FloatArray]:
    """Return the example losses of every task, (n_members, n_examples) each; without examples, of the objectives."""
    sizes = {tuple(len(losses) for losses in member.examples) for member in members}
    if len(sizes) == 1 and sizes != {()}:
        return [np.array(losses) for losses in zip(*(member.examples for member in members), strict=True)]
    objectives = np.array([member.losses for member in members])
    return [column[:, None] for column in objectives.T]


def _scores(losses: FloatArray) -> FloatArray:
    """Return non-negative scores, larger is better, (n_members, n_examples)."""
    if losses.shape[1] > 1 and losses.min() >= -1.0 and losses.max() <= 0.0:
        return -losses
    worst = losses.max(axis=0)
    span = worst - losses.min(axis=0)
    return np.asarray((worst - losses) / np.where(span > 0.0, span, 1.0))


def _shares(values: FloatArray) -> FloatArray:
    """Return probabilities proportional to `values`; uniform if all are 0."""
    total = values.sum()
    return np.asarray(values / total) if total > 0.0 else np.full(len(values), 1.0 / len(values))


def _cross(first: FloatArray, second: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Return the SLERP of two points, by t up to a random coordinate and by 1 - t from there on, (dimension,)."""
    split = rng.integers(len(first))
    t = rng.random()
    along = np.where(np.arange(len(first)) < split, t, 1.0 - t)
    norms = float(np.linalg.norm(first) * np.linalg.norm(second))
    cosine = float(first @ second) / norms if norms > 0.0 else 1.0
    omega = np.arccos(np.clip(cosine, -1.0, 1.0))
    if np.sin(omega) < 1e-6:
        return (1.0 - along) * first + along * second
    return np.asarray((np.sin((1.0 - along) * omega) * first + np.sin(along * omega) * second) / np.sin(omega))
