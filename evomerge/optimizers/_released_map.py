"""The algorithm of MAP's released code: its design, least-squares fit and front. https://arxiv.org/abs/2406.07529.

Settings follow https://github.com/luli-git/MAP, which solves with DEAP; this uses pymoo with the same operators.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import least_squares
from scipy.special import expit

from evomerge.optimizers.base import FloatArray, Observation
from evomerge.statistics.pareto import non_dominated

#: The box in which the front is solved, far beyond the sampled points.
_LOW, _HIGH = -3.0, 3.0


@dataclass(frozen=True, eq=False)
class Front:
    """Points x (n_points, dimension) in [-3, 3], predicted losses (n_points, n_objectives), errors (n_objectives,).

    Points are ordered farthest first: each is as far as possible, in predicted losses, from the previous ones.
    """

    x: FloatArray
    losses: FloatArray
    errors: FloatArray

    def recommended(self, preference: FloatArray) -> int:
        """Return the index of the point with the largest inner product of predicted metrics and preference."""
        return int((self.losses @ (preference / np.linalg.norm(preference))).argmin())

    def in_the_cube(self, preference: FloatArray) -> list[FloatArray]:
        """Return the distinct points clipped to the cube, the recommended one first."""
        order = [self.recommended(preference), *range(len(self.x))]
        clipped = np.clip(self.x[order], 0.0, 1.0)
        return list({x.tobytes(): x for x in clipped}.values())


def design(dimension: int, n_points: int, rng: np.random.Generator) -> FloatArray:
    """Return one-hots and grid points in random order, (n, dimension); the first n_points are the design."""
    n_levels = math.ceil(((n_points - dimension) / 0.5) ** (1.0 / dimension))
    grid = np.array(list(itertools.product(np.linspace(0.0, 1.0, n_levels), repeat=dimension)))
    dropped = np.isclose(grid.sum(axis=1), 1.0) | (grid == grid[:, :1]).all(axis=1)  # one-hots sum to 1 too
    return np.concatenate([np.eye(dimension), rng.permutation(grid[~dropped])])


def _terms(x: FloatArray) -> FloatArray:
    """Return squares, products, linear terms and 1, (n_points, n_parameters)."""
    first, second = np.triu_indices(x.shape[1])
    return np.concatenate([x[:, first] * x[:, second], x, np.ones((len(x), 1))], axis=1)


@dataclass(frozen=True, eq=False)
class _Fit:
    """losses = sign * link(terms @ theta)."""

    theta: FloatArray
    kind: str
    residual: float

    def losses(self, x: FloatArray) -> FloatArray:
        """Predict losses (n_points,)."""
        return _sign(self.kind) * _warp(_terms(x) @ self.theta, self.kind)[0]


def _fit(x: FloatArray, losses: FloatArray) -> _Fit:
    """Fit by unweighted least squares with Levenberg-Marquardt, starting from all ones."""
    kind = "accuracy" if losses.min() >= -1.0 and losses.max() <= 0.0 else "loss" if losses.min() >= 0.0 else "other"
    terms, metrics = _terms(x), _sign(kind) * losses
    found = least_squares(
        lambda theta: _warp(terms @ theta, kind)[0] - metrics,
        np.ones(terms.shape[1]),
        jac=lambda theta: _warp(terms @ theta, kind)[1][:, None] * terms,
        method="lm",
    )
    freedom = max(1, len(metrics) - terms.shape[1])
    return _Fit(found.x, kind, math.sqrt(2.0 * found.cost / freedom))


def _sign(kind: str) -> float:
    return -1.0 if kind == "accuracy" else 1.0


def _warp(z: FloatArray, kind: str) -> tuple[FloatArray, FloatArray]:
    """Return the metric for a quadratic's value, and its derivative."""
    if kind == "accuracy":
        share = np.asarray(expit(z))
        return share, share * (1.0 - share)
    if kind == "loss":
        return np.logaddexp(0.0, z), np.asarray(expit(z))
    return z, np.ones_like(z)


def solve(rows: Sequence[Observation], seed: int) -> Front:
    """Return the front of quadratics fitted to successful trials: all non-dominated points that NSGA-III visited."""
    x = np.array([row.x for row in rows])
    losses = np.array([row.losses for row in rows])
    fits = [_fit(x, column) for column in losses.T]
    seen = _nsga3(fits, x.shape[1], seed)
    predicted = np.stack([fit.losses(seen) for fit in fits], axis=1)
    best = np.flatnonzero(non_dominated(predicted))
    best = best[_spread(predicted[best])]
    return Front(seen[best], predicted[best], np.array([fit.residual for fit in fits]))


def _spread(losses: FloatArray) -> list[int]:
    """Order points farthest first, beginning with the best on the first objective."""
    span = np.ptp(losses, axis=0)
    scaled = losses / np.where(span > 0.0, span, 1.0)
    order = [int(losses[:, 0].argmin())]
    distances = np.full(len(losses), np.inf)
    while len(order) < len(losses):
        distances = np.minimum(distances, np.linalg.norm(scaled - scaled[order[-1]], axis=1))
        distances[order[-1]] = -1.0  # also below the distance of points with equal losses
        order.append(int(distances.argmax()))
    return order


def _nsga3(fits: Sequence[_Fit], dimension: int, seed: int) -> FloatArray:
    """Return every point that NSGA-III tries in 25 generations of 100, (n_points, dimension)."""
    from pymoo.algorithms.moo.nsga3 import NSGA3
    from pymoo.core.problem import Problem
    from pymoo.operators.crossover.sbx import SBX
    from pymoo.operators.mutation.pm import PM
    from pymoo.optimize import minimize
    from pymoo.util.ref_dirs import get_reference_directions

    seen: list[FloatArray] = []

    class Surrogates(Problem):  # type: ignore[misc] # pymoo has no types
        def _evaluate(self, x: FloatArray, out: dict[str, Any], *_: Any, **__: Any) -> None:
            seen.append(x.copy())
            out["F"] = np.stack([fit.losses(x) for fit in fits], axis=1)

    layers = [
        get_reference_directions("das-dennis", len(fits), n_partitions=partitions, scaling=scaling)
        for partitions, scaling in ((2, 1.0), (1, 0.5))
    ]
    algorithm = NSGA3(
        np.unique(np.concatenate(layers), axis=0),
        pop_size=100,
        crossover=SBX(eta=20, prob=0.7),
        mutation=PM(eta=20, prob=0.3, prob_var=1.0 / dimension),
    )
    problem = Surrogates(n_var=dimension, n_obj=len(fits), xl=_LOW, xu=_HIGH)
    minimize(problem, algorithm, ("n_gen", 25), seed=seed)
    return np.concatenate(seen)
