"""Gaussian processes over many coefficients whose neighbors in depth behave alike.

Notation: a *series* holds the coordinates of one parameter and input, at depths from 0 to 1. The squared distance of
two points is the sum over the series of v' S v / (l^2 1' S 1), where v are their differences in the series'
coordinates, each times its own weight, l the series' length scale, and S = share * exp(-gap^2 / (2 reach^2)) +
(1 - share) I, with the gaps between depths. Moving a whole series by l is a distance of 1, however many coordinates it
has: what tied coordinates have shown holds for free ones too.
"""

import numpy as np
from scipy.linalg import cho_solve, cholesky
from scipy.optimize import minimize
from scipy.special import expit

from evomerge.optimizers._kernel import Kernel
from evomerge.optimizers._links import Data
from evomerge.optimizers._process import Process
from evomerge.optimizers.base import FloatArray, Positions

_ROOT5 = 5.0**0.5
#: Prior variance of the constant, in variances of the latents.
_CONSTANT = 10.0
#: Centers and standard deviations of the normal priors on the logarithms of the amplitude, the noise factor, the weight
#: of the trend and the reach, and on the logit of the share.
_CENTERS = (0.0, np.log(0.3), -1.0, np.log(0.3), 0.0)
_LOOSE = (1.5, 1.5, 1.5, 0.7, 1.5)
#: Standard deviations of the priors on the logarithms of the series' length scales and of the coordinates' weights.
_LOOSE_LENGTHS, _LOOSE_WEIGHTS = 0.5, 0.4
#: Lower bound of the fitted noise, as a fraction of its upper bound.
_LEAST_NOISE = 1e-3
_STEPS = 30


def fit_depth_process(data: Data, positions: Positions) -> Process:
    """Fit a Matern 5/2 process plus a linear trend.

    All parameters maximize the marginal likelihood under weak priors.
    """
    evidence = Evidence(data, positions)
    found = minimize(
        evidence.loss,
        evidence.centre,
        jac=True,
        method="L-BFGS-B",
        bounds=evidence.bounds,
        options={"maxiter": _STEPS, "maxcor": 10},
    )
    kernel, noise = evidence.unpack(found.x)
    return Process.given(kernel, data.x, data.latents, noise)


class Evidence:
    """Negative log marginal likelihood of (log weights, log lengths, log amplitude, log noise fraction, log trend, log
    reach, logit share)."""

    def __init__(self, data: Data, positions: Positions) -> None:
        self.x, self.noise = data.x - 0.5, data.noise
        self.variance = data.spread**2
        self.residual = data.latents - np.average(data.latents, weights=1.0 / data.noise)
        self.n_series, self.series = positions.n_series, positions.series
        self.dimension = len(self.series)
        self.same = self.series[:, None] == self.series[None, :]
        self.gaps = (positions.depths[:, None] - positions.depths[None, :]) ** 2
        lengths = np.full(self.n_series, np.log(0.5 * self.n_series**0.5))
        self.centre = np.concatenate([np.zeros(self.dimension), lengths, _CENTERS])
        self.loose = np.concatenate(
            [np.full(self.dimension, _LOOSE_WEIGHTS), np.full(self.n_series, _LOOSE_LENGTHS), np.array(_LOOSE)]
        )
        self.bounds = [(c - 4.0, c + 4.0) for c in self.centre]
        self.bounds[-4] = (np.log(_LEAST_NOISE), 0.0)

    def unpack(self, theta: FloatArray) -> tuple[Kernel, FloatArray]:
        """Return the covariance and the noise (n_points,)."""
        amplitude, share, trend, _, _ = theta[-5:]
        metric, _ = self._metric(theta)
        dimension = self.dimension
        values, vectors = np.linalg.eigh(metric)
        warp = vectors * np.sqrt(np.maximum(values, 0.0))
        # `mixed` is 4 / dimension times the inner product here.
        unit = Kernel(
            _CONSTANT, np.exp(trend) * dimension / 4.0, 0.0, float(np.exp(amplitude)), np.ones(dimension), warp
        )
        return unit.scaled(self.variance), np.exp(share) * self.noise

    def loss(self, theta: FloatArray) -> tuple[float, FloatArray]:
        """Return the value and its gradient; both include the priors."""
        log_amplitude, log_noise, log_trend, _, _ = theta[-5:]
        metric, slopes = self._metric(theta)
        inner = self.x @ metric @ self.x.T
        norms = np.diag(inner)
        r = _ROOT5 * np.sqrt(np.maximum(norms[:, None] + norms[None, :] - 2.0 * inner, 0.0))
        decay = self.variance * np.exp(log_amplitude - r)
        matern = (1.0 + r + r * r / 3.0) * decay
        trend = self.variance * np.exp(log_trend) * inner
        noise = np.exp(log_noise) * self.noise
        covariance = matern + trend + self.variance * _CONSTANT
        covariance[np.diag_indices(len(r))] += noise
        factor = cholesky(covariance, lower=True)
        weights = cho_solve((factor, True), self.residual)
        slope = 0.5 * (cho_solve((factor, True), np.eye(len(r))) - np.outer(weights, weights))  # by the covariance
        by_square = slope * (-5.0 / 6.0) * (1.0 + r) * decay
        pull = np.diag(by_square.sum(axis=1)) - by_square
        by_metric = self.x.T @ (2.0 * pull + self.variance * np.exp(log_trend) * slope) @ self.x
        by_weight = 2.0 * (by_metric * metric).sum(axis=1)
        gradient = np.concatenate(
            [
                by_weight,
                -np.bincount(self.series, by_weight, self.n_series),
                [np.sum(slope * matern), np.diag(slope) @ noise, np.sum(slope * trend)],
                [np.sum(by_metric * each) for each in slopes],
            ]
        )
        away = (theta - self.centre) / self.loose
        value = 0.5 * self.residual @ weights + np.log(np.diag(factor)).sum() + 0.5 * away @ away
        return float(value), gradient + away / self.loose

    def _metric(self, theta: FloatArray) -> tuple[FloatArray, tuple[FloatArray, FloatArray]]:
        """Return the matrix of squared distances (dimension, dimension), and its derivatives by log reach and logit
        share."""
        reach, share = np.exp(theta[-2]), expit(theta[-1])
        near = np.where(self.same, np.exp(-self.gaps / (2.0 * reach**2)), 0.0)
        alone = np.eye(len(near))
        alike = share * near + (1.0 - share) * alone
        by_reach = share * near * self.gaps / reach**2
        by_share = share * (1.0 - share) * (near - alone)
        weights = np.exp(theta[: self.dimension])
        lengths = np.exp(theta[self.dimension : -5])[self.series]
        total = self._total(alike)
        scale = np.outer(weights / (lengths**2 * total), weights)
        return (
            scale * alike,
            (
                scale * (by_reach - alike * (self._total(by_reach) / total)[:, None]),
                scale * (by_share - alike * (self._total(by_share) / total)[:, None]),
            ),
        )

    def _total(self, matrix: FloatArray) -> FloatArray:
        """Return, for each coordinate, the sum of the matrix over its series: (dimension,)."""
        return np.asarray(np.bincount(self.series, matrix.sum(axis=1), self.n_series)[self.series], dtype=np.float64)
