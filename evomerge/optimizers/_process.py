"""Gaussian process regression of latents (Rasmussen and Williams, 2006, chapters 2 and 5). https://gaussianprocess.org/gpml/

Every surrogate is a Gaussian process: a quadratic is one with another covariance.
"""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.optimize import minimize
from scipy.spatial.distance import cdist

from evomerge.optimizers._kernel import Kernel
from evomerge.optimizers._links import Data
from evomerge.optimizers.base import FloatArray

_ROOT5 = 5.0**0.5
#: Standard deviations of the normal priors on the logarithms of length scales, variances and the noise factor.
_LOOSE = (0.5, 1.5, 1.5)
#: Lower bound of the fitted noise, as a fraction of its upper bound.
_LEAST_NOISE = 1e-3


@dataclass(frozen=True, eq=False)
class Process:
    """A posterior over latents given responses (n_points,) with variances `noise` at x (n_points, dimension).

    offset: prior mean.
    """

    kernel: Kernel
    x: FloatArray
    offset: float
    responses: FloatArray
    noise: FloatArray
    factor: FloatArray
    weights: FloatArray

    @classmethod
    def given(cls, kernel: Kernel, x: FloatArray, responses: FloatArray, noise: FloatArray) -> "Process":
        """Condition on the responses."""
        offset = float(np.average(responses, weights=1.0 / noise))
        covariance = kernel(x, x)
        covariance[np.diag_indices(len(x))] += noise
        factor = cholesky(covariance, lower=True)
        weights = cho_solve((factor, True), responses - offset)
        return cls(kernel, x, offset, responses, noise, factor, weights)

    def mean(self, points: FloatArray) -> FloatArray:
        """Return the expected latents (n,) at points (n, dimension)."""
        return np.asarray(self.offset + self.kernel(points, self.x) @ self.weights)

    def mean_and_gradient(self, points: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the expected latents (n,) and their gradients (n, dimension)."""
        mean, gradient = self.kernel.weighted(points, self.x, self.weights)
        return self.offset + mean, gradient

    def deviation(self, points: FloatArray) -> FloatArray:
        """Return the standard deviations (n,) of the latents, without measurement noise."""
        known = solve_triangular(self.factor, self.kernel(self.x, points), lower=True)
        variance = self.kernel.diagonal(points) - np.sum(known**2, axis=0)
        return np.asarray(np.sqrt(np.maximum(variance, 0.0)))

    def left_out(self) -> tuple[FloatArray, FloatArray]:
        """Return leave-one-out predictions of the responses, and the variances around them, (n_points,)."""
        precision = np.diag(cho_solve((self.factor, True), np.eye(len(self.x))))
        return self.responses - self.weights / precision, 1.0 / precision

    def believing(self, points: FloatArray) -> "Process":
        """Condition on the expected latents at `points` (n, dimension): the same mean, smaller variance."""
        x, responses = np.vstack([self.x, points]), np.concatenate([self.responses, self.mean(points)])
        noise = np.concatenate([self.noise, np.full(len(points), self.noise.mean())])
        covariance = self.kernel(x, x)
        covariance[np.diag_indices(len(x))] += noise
        factor = cholesky(covariance, lower=True)
        weights = cho_solve((factor, True), responses - self.offset)
        return Process(self.kernel, x, self.offset, responses, noise, factor, weights)


def fit_process(data: Data, mean: Kernel | None = None) -> Process:
    """Fit a Matern 5/2 process, by default with a constant mean; its length scales, variances and noise fraction
    maximize the marginal likelihood under weak priors.

    mean: covariance of a trend to add, up to a scale factor that is fitted too.
    """
    evidence = _Evidence(data, mean)
    start = evidence.centre
    found = minimize(
        evidence.loss, start, jac=True, method="L-BFGS-B", bounds=evidence.bounds, options={"maxiter": 40, "maxcor": 10}
    )
    kernel, noise = evidence.unpack(found.x)
    return Process.given(kernel, data.x, data.latents, noise)


class _Evidence:
    """Negative log marginal likelihood of (log lengths, log amplitude, log noise fraction, log trend)."""

    def __init__(self, data: Data, trend: Kernel | None) -> None:
        n_points, self.dimension = data.x.shape
        self.x, self.noise = data.x, data.noise
        self.variance = data.spread**2
        self.residual = data.latents - np.average(data.latents, weights=1.0 / data.noise)
        self.trend = trend
        self.centered = data.x - data.x.mean(axis=0)
        self.trend_part = trend(data.x, data.x) if trend else np.full((n_points, n_points), 10.0)
        # Lengths grow with the cube's diagonal (https://arxiv.org/abs/2402.02229); the prior is centered at half of it.
        lengths = np.full(self.dimension, np.log(0.5 * self.dimension**0.5))
        self.centre = np.concatenate([lengths, [0.0, np.log(0.3)], [-1.0] if trend else []])
        self.loose = np.concatenate([np.full(self.dimension, _LOOSE[0]), _LOOSE[1:], [_LOOSE[1]] if trend else []])
        self.bounds = [(c - 4.0, c + 4.0) for c in self.centre]
        self.bounds[self.dimension + 1] = (np.log(_LEAST_NOISE), 0.0)

    def unpack(self, theta: FloatArray) -> tuple[Kernel, FloatArray]:
        """Return the covariance and the noise (n_points,)."""
        d = self.dimension
        share = float(np.exp(theta[d + 2])) if self.trend else 1.0
        trend = self.trend.scaled(share) if self.trend else Kernel(10.0, 0.0, 0.0, 0.0, np.ones(d))
        unit = Kernel(trend.constant, trend.linear, trend.square, float(np.exp(theta[d])), np.exp(theta[:d]))
        return unit.scaled(self.variance), np.exp(theta[d + 1]) * self.noise

    def loss(self, theta: FloatArray) -> tuple[float, FloatArray]:
        """Return the value and its gradient; both include the priors."""
        d = self.dimension
        amplitude, share = self.variance * np.exp(theta[d]), np.exp(theta[d + 1])
        scaled = self.centered * np.exp(-theta[:d])
        r = _ROOT5 * cdist(scaled, scaled)
        decay = amplitude * np.exp(-r)
        matern = (1.0 + r + r * r / 3.0) * decay
        trend = self.variance * self.trend_part * (np.exp(theta[d + 2]) if self.trend else 1.0)
        covariance = matern + trend
        covariance[np.diag_indices(len(r))] += share * self.noise
        factor = cholesky(covariance, lower=True)
        weights = cho_solve((factor, True), self.residual)
        inverse = cho_solve((factor, True), np.eye(len(r)))
        slope = 0.5 * (inverse - np.outer(weights, weights))  # d loss / d covariance
        gradient = np.empty_like(theta)
        # The sum of pull_ij (x_ik - x_jk)^2 over pairs, without an array of (dimension, n_points, n_points).
        pull = slope * (5.0 / 3.0 * (1.0 + r) * decay)
        gradient[:d] = 2.0 * np.sum(scaled * (pull.sum(axis=1)[:, None] * scaled - pull @ scaled), axis=0)
        gradient[d] = np.sum(slope * matern)
        gradient[d + 1] = np.sum(np.diag(slope) * share * self.noise)
        if self.trend:
            gradient[d + 2] = np.sum(slope * trend)
        away = (theta - self.centre) / self.loose
        value = 0.5 * self.residual @ weights + np.log(np.diag(factor)).sum() + 0.5 * away @ away
        return float(value), gradient + away / self.loose
