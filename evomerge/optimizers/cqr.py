"""Conformalized quantile regression with Thompson sampling (Salinas et al., 2023). https://arxiv.org/abs/2305.03623."""

from collections.abc import Mapping

import numpy as np

from evomerge.optimizers._quantile_trees import fit_quantile
from evomerge.optimizers._quasi_random import sobol_point
from evomerge.optimizers.base import FloatArray, Observation, Optimizer, OptimizerError, Proposal

#: Quantiles that are predicted.
_LEVELS = tuple(k / 6 for k in range(1, 6))
#: Share of the results held out to correct the quantiles, and the results from which on they are corrected.
_HELD_OUT, _FEWEST = 0.1, 32
#: Points to compare: spread over the cube, and around each of the best known ones.
_SPREAD, _NEAR, _BEST = 1000, 200, 5
#: Standard deviations around known points, in cube widths, and coordinates that a step changes on average.
_WIDTHS, _MOVED = (0.02, 0.05, 0.1, 0.2), 20.0


class QuantileRegression(Optimizer):
    """Predicts quantiles of the loss by boosted trees, and tries the point with the best random draw. One objective.

    Assumes nothing about noise or smoothness; `gp` needs fewer candidates where the loss is smooth. Every point of a
    pool is given one of five predicted quantiles at random, and the point with the lowest one is proposed. From 32
    results on, a tenth of them is held out, and the quantiles are widened or narrowed to cover as many of these as they
    should. Failed trials are ignored. A proposal takes about a second at 72 coordinates and 150 trials.

    Differs from the paper: half of the pool lies around the five best points instead of being spread over the cube,
    where almost no merge of many coefficients is good.

    Args:
        n_startup_trials: Successful trials, baselines included, before the first fit; until then, Sobol points.
    """

    def __init__(
        self,
        dimension: int,
        n_objectives: int,
        seed: int,
        start: FloatArray | None = None,
        *,
        n_startup_trials: int = 10,
    ) -> None:
        super().__init__(dimension, n_objectives, seed, start)
        if n_startup_trials < 2:
            raise OptimizerError(f"n_startup_trials must be at least 2; it is {n_startup_trials}.")
        self._n_startup_trials = n_startup_trials
        self._results: list[tuple[float, FloatArray]] = []
        self._fitted: Quantiles | None = None

    def _ask(self, number: int, pending: Mapping[int, FloatArray]) -> Proposal:  # noqa: ARG002 - draws are distinct
        if len(self._results) < self._n_startup_trials:
            return Proposal(sobol_point(self.dimension, self.seed, number))
        if self._fitted is None:
            y, x = np.array([loss for loss, _ in self._results]), np.array([x for _, x in self._results])
            self._fitted = Quantiles(x, y, np.random.default_rng((self.seed, len(y))))
        rng = self._rng(number)
        pool = self._pool(rng)
        predicted = self._fitted(pool)
        drawn = predicted[rng.integers(len(_LEVELS), size=len(pool)), np.arange(len(pool))]
        return Proposal(pool[int(np.argmin(drawn))])

    def _tell(self, observation: Observation) -> None:
        if observation.losses is not None:
            self._results.append((float(observation.losses[0]), observation.x))
            self._fitted = None

    def _pool(self, rng: np.random.Generator) -> FloatArray:
        """Return points to compare, (n_points, dimension): half of them around the best results."""
        best = sorted(self._results, key=lambda result: result[0])[:_BEST]
        centers = np.repeat([x for _, x in best], _NEAR, axis=0)
        moved = rng.random(centers.shape) < _MOVED / self.dimension
        away = rng.choice(np.array(_WIDTHS), (len(centers), 1)) * rng.standard_normal(centers.shape)
        near = np.clip(1.0 - np.abs(1.0 - np.abs(centers + moved * away)), 0.0, 1.0)
        return np.vstack([rng.random((_SPREAD, self.dimension)), near])


class Quantiles:
    """Conditional quantiles of losses (n,) at points x (n, dimension), corrected on held-out ones if there are enough.

    The correction of the band between the levels q and 1 - q is the quantile of max(low - y, y - high) over n held-out
    results, at level (1 - 2q)(1 + 1/n), after Romano et al. (2019), https://arxiv.org/abs/1905.03222.
    """

    def __init__(self, x: FloatArray, losses: FloatArray, rng: np.random.Generator) -> None:
        n_held_out = round(_HELD_OUT * len(losses)) if len(losses) >= _FEWEST else 0
        order = rng.permutation(len(losses))
        held_out, kept = order[:n_held_out], order[n_held_out:]
        self._trees = [fit_quantile(x[kept], losses[kept], level) for level in _LEVELS]
        #: What is added to each quantile, (n_levels, 1).
        self.corrections = np.zeros((len(_LEVELS), 1))
        if n_held_out:
            predicted = self(x[held_out])
            for low in range(len(_LEVELS) // 2):
                high = len(_LEVELS) - 1 - low
                beyond = np.maximum(predicted[low] - losses[held_out], losses[held_out] - predicted[high])
                level = min(1.0, (1.0 - 2.0 * _LEVELS[low]) * (1.0 + 1.0 / n_held_out))
                wider = np.quantile(beyond, level)
                self.corrections[low], self.corrections[high] = -wider, wider

    def __call__(self, x: FloatArray) -> FloatArray:
        """Return the quantiles at points (n, dimension), (n_levels, n)."""
        return np.array([trees(x) for trees in self._trees]) + self.corrections
