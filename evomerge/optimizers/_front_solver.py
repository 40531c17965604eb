"""The Pareto front of surrogates: smooth Chebyshev scalarizations, solved together by L-BFGS-B inside the cube.

Smooth Chebyshev: Lin et al., 2024, https://arxiv.org/abs/2402.19078. Weights: Das and Dennis, 1998,
https://doi.org/10.1137/S1052623496307510. The problems of all weights are independent; minimizing their sum lets each
step of one solver evaluate all of them at once.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import combinations
from math import comb

import numpy as np
from scipy.optimize import minimize
from scipy.special import logsumexp

from evomerge.optimizers._quasi_random import sobol_points
from evomerge.optimizers.base import FloatArray
from evomerge.statistics import pareto

#: Losses (n, n_objectives) of points (n, dimension), and their gradients (n, n_objectives, dimension).
Model = Callable[[FloatArray], tuple[FloatArray, FloatArray]]

#: Starting points per weight.
_N_STARTS = 3
#: Points from which the starting points are selected; a power of two.
_N_CANDIDATES = 512
#: Steps of the solver from each set of starting points.
_STEPS = 80
#: Sharpness of the smooth maximum, in the first round and in the second.
_SHARPNESS = (15.0, 80.0)
#: Weight of the mean of all objectives relative to the worst one, so that no objective is sacrificed needlessly.
_AUGMENTATION = 0.02
#: Penalty for exceeding a limit, in squared ranges of the objective.
_PENALTY = 100.0


@dataclass(frozen=True, eq=False)
class _Problem:
    """weights: (n_rows, n_objectives); sharpness and augmentation: (n_rows, 1); the rest: (n_objectives,)."""

    model: Model
    weights: FloatArray
    sharpness: FloatArray
    augmentation: FloatArray
    ideal: FloatArray
    span: FloatArray
    limits: FloatArray

    def scalars(self, losses: FloatArray) -> FloatArray:
        """Return the scalarization of every point under every weight: (n_rows, n)."""
        scaled = (losses - self.ideal) / self.span
        terms = self.sharpness[:, :, None] * self.weights[:, None, :] * scaled
        worst = logsumexp(terms, axis=2) / self.sharpness
        return np.asarray(worst + self.augmentation * scaled.mean(axis=1) + self._excess(losses).sum(axis=1))

    def value(self, flat: FloatArray, dimension: int) -> tuple[float, FloatArray]:
        """Return the sum over the rows, each at its own point, and its gradient; flat: (n_rows * dimension,)."""
        losses, slopes = self.model(flat.reshape(-1, dimension))
        scaled = (losses - self.ideal) / self.span
        terms = self.sharpness * self.weights * scaled
        excess = np.maximum(0.0, losses - self.limits) / self.span
        top = terms.max(axis=1, keepdims=True)
        powers = np.exp(terms - top)
        sums = powers.sum(axis=1, keepdims=True)
        total = (top + np.log(sums)) / self.sharpness + self.augmentation * scaled.mean(axis=1, keepdims=True)
        pull = powers / sums * self.weights + self.augmentation / len(self.ideal) + 2.0 * _PENALTY * excess
        gradient = np.einsum("rm,rmd->rd", pull / self.span, slopes)
        return float(total.sum() + _PENALTY * np.sum(excess**2)), gradient.ravel()

    def _excess(self, losses: FloatArray) -> FloatArray:
        return np.asarray(_PENALTY * (np.maximum(0.0, losses - self.limits) / self.span) ** 2)

    def improve(self, points: FloatArray, reach: float = 1.0, steps: int = _STEPS) -> FloatArray:
        """Move each row's point (n_rows, dimension) to a nearby minimum, by at most `reach` in each coordinate."""
        dimension = points.shape[1]
        low, high = np.maximum(points.ravel() - reach, 0.0), np.minimum(points.ravel() + reach, 1.0)
        found = minimize(
            self.value,
            points.ravel(),
            args=(dimension,),
            jac=True,
            method="L-BFGS-B",
            bounds=np.stack([low, high], axis=1),
            options={"maxiter": steps, "maxcor": 20},
        )
        return np.asarray(np.clip(found.x.reshape(-1, dimension), 0.0, 1.0))


@dataclass(frozen=True, eq=False)
class Near:
    """Search near good points: points (n, dimension) to start from besides the known ones, the largest change of a
    coordinate in each of two rounds, and the steps of a round."""

    points: FloatArray
    reach: float
    steps: int


def solve(
    model: Model,
    known: FloatArray,
    seed: int,
    preference: FloatArray,
    limits: FloatArray,
    n_weights: int,
    near: Near | None = None,
) -> FloatArray:
    """Return non-dominated points (n, dimension) of the cube under `model`.

    n_weights: maximum number of scalarizations (exceeded only with more objectives than that); each finds one point.
    known: starting points (n_known, dimension) in addition to a scrambled Sobol set keyed by `seed`. preference:
    weights (n_objectives,); the first point minimizes the sum of the losses under them.
    limits: losses (n_objectives,) above which a penalty applies. near: where to look instead of the whole cube.
    """
    dimension, n_objectives = known.shape[1], len(preference)
    elsewhere = sobol_points(dimension, seed, _N_CANDIDATES) if near is None else near.points
    n_starts, reach, steps = (_N_STARTS, 1.0, _STEPS) if near is None else (1, near.reach, near.steps)
    candidates = np.vstack([known, elsewhere])
    losses, _ = model(candidates)
    ideal = losses.min(axis=0)
    span = np.maximum(losses[pareto.non_dominated(losses)].max(axis=0) - ideal, 1e-3 * np.ptp(losses, axis=0) + 1e-12)
    # At a sharpness near 0 the maximum becomes the mean: the first row is the preference, the next ones the extremes.
    linear = np.vstack([preference * span / np.sum(preference * span), np.eye(n_objectives)])
    weights = np.vstack([linear, simplex(n_objectives, n_weights)])
    is_linear = np.arange(len(weights))[:, None] < len(linear)
    points = candidates
    for sharpness in _SHARPNESS:
        sharp = np.where(is_linear, 1e-3, sharpness)
        augmentation = np.where(is_linear, 0.0, _AUGMENTATION)
        problem = _Problem(model, weights, sharp, augmentation, ideal, span, limits)
        starts = 1 if sharpness == _SHARPNESS[-1] else n_starts
        chosen = _starts(problem.scalars(model(points)[0]), starts)
        rows_of = np.repeat(np.arange(len(weights)), starts)
        repeated = replace(
            problem, weights=weights[rows_of], sharpness=sharp[rows_of], augmentation=augmentation[rows_of]
        )
        points = np.vstack([points, repeated.improve(points[chosen], reach, steps)])
    final = points[-len(weights) :]
    return _front(final, model(final)[0], limits)


def simplex(n_objectives: int, most: int) -> FloatArray:
    """Return evenly spread weights (n, n_objectives) that sum to 1, after Das and Dennis; n is at most `most`, or
    n_objectives if that is larger."""
    cuts = 1
    while n_objectives > 1 and comb(cuts + n_objectives, n_objectives - 1) <= most:
        cuts += 1
    bars = np.array(list(combinations(range(cuts + n_objectives - 1), n_objectives - 1)), dtype=np.int64)
    edges = np.hstack([np.full((len(bars), 1), -1), bars, np.full((len(bars), 1), cuts + n_objectives - 1)])
    return np.asarray((np.diff(edges, axis=1) - 1) / cuts, dtype=np.float64)


def _starts(scalars: FloatArray, n: int) -> FloatArray:
    """Return, for every row, the best of each of `n` interleaved subsets of the points: indices (n_rows * n,)."""
    parts = [np.arange(part, scalars.shape[1], n) for part in range(n)]
    best = np.stack([part[np.argmin(scalars[:, part], axis=1)] for part in parts], axis=1)
    return np.asarray(best.ravel())


def _front(points: FloatArray, losses: FloatArray, limits: FloatArray) -> FloatArray:
    """Return the distinct non-dominated points among those within the limits, or among all if none is."""
    within = (losses <= limits + 1e-6).all(axis=1)
    if within.any():
        points, losses = points[within], losses[within]
    points = points[pareto.non_dominated(losses)]
    kept: list[FloatArray] = []
    for point in points:
        if all(np.abs(point - other).max() > 1e-3 for other in kept):
            kept.append(point)
    return np.array(kept)
