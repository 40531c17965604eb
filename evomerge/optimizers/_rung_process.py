"""A Gaussian process over points and rungs: losses on few examples inform about losses on all of them.

Notation: x (n, dimension) points, r (n,) numbers of examples, y (n,) losses; R is the number of all examples, r_0 that
of the lowest rung. The means over two prefixes of the same examples share the smaller one, so that their deviations
from the mean over all examples have covariance 1 / max(r, r') - 1 / R up to a factor. With that covariance g, scaled to
1 on the lowest rung,

    k = 10 (1 + g) + a m(x, x') (1 + c g) + t [x = x'] r_0 / max(r, r'),

where m is a Matern 5/2 covariance with one length scale. The first term holds the mean and the difficulty of each
prefix, the second the loss and the part of it that is true of a prefix only, and the third is the sampling error that
neighbors do not share.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.optimize import minimize
from scipy.spatial.distance import cdist
from scipy.stats import norm

from evomerge.optimizers.base import FloatArray

_ROOT5 = 5.0**0.5
#: Prior variance of the mean and of the difficulty of a prefix, in variances of the losses.
_VAGUE = 10.0
#: Added to the diagonal.
_JITTER = 1e-6
#: Standard deviations of the normal priors on the logarithms of the length scale, a, c and t.
_LOOSE = np.array([0.5, 1.0, 1.0, 1.5])
#: Centers of the priors of a, c and t; that of the length scale grows with the cube's diagonal.
_CENTERS = (1.0, 0.3, 0.1)


@dataclass(frozen=True, eq=False)
class RungProcess:
    """A posterior over losses, given measurements.

    x: (n, dimension). sizes: numbers of examples r, (n,). y: losses in standard units, (n,). theta: logarithms of the
    length scale, a, c and t. least, total: r_0 and R.
    """

    x: FloatArray
    sizes: FloatArray
    y: FloatArray
    theta: FloatArray
    least: int
    total: int

    @cached_property
    def _factor(self) -> FloatArray:
        covariance = self._covariance(self.x, self.sizes, self.x, self.sizes)
        covariance[np.diag_indices(len(self.x))] += _JITTER
        return np.asarray(cholesky(covariance, lower=True))

    @cached_property
    def _weights(self) -> FloatArray:
        return np.asarray(cho_solve((self._factor, True), self.y))

    def predict(self, points: FloatArray, size: int) -> tuple[FloatArray, FloatArray]:
        """Return means and standard deviations of the losses on a rung, (m,) each, in standard units.

        Args:
            points: (m, dimension).
            size: Number of examples of the rung.
        """
        sizes = np.full(len(points), float(size))
        across = self._covariance(points, sizes, self.x, self.sizes)
        known = solve_triangular(self._factor, across.T, lower=True)
        shared = self.shared(float(size), float(size))
        variance = _VAGUE * (1 + shared) + np.exp(self.theta[1]) * (1 + np.exp(self.theta[2]) * shared)
        return across @ self._weights, np.sqrt(np.maximum(variance - np.sum(known**2, axis=0), 1e-12))

    def believing(self, points: Sequence[FloatArray], sizes: Sequence[int]) -> "RungProcess":
        """Condition on the expected losses at points of given rungs, as if they had been measured: the same means."""
        if not points:
            return self
        expected = [self.predict(x[None], size)[0][0] for x, size in zip(points, sizes, strict=True)]
        return replace(
            self,
            x=np.vstack([self.x, *points]),
            sizes=np.append(self.sizes, sizes),
            y=np.append(self.y, expected),
        )

    def improvement(self, points: FloatArray, size: int) -> FloatArray:
        """Return the logarithm of the expected improvement on a rung, (m,), over the best mean at known points."""
        best = self.predict(self.x, size)[0].min()
        mean, deviation = self.predict(points, size)
        z = (best - mean) / deviation
        # log(pdf + z cdf); far below the best, the asymptotic form does not cancel.
        near = np.log(np.maximum(norm.pdf(z) + z * norm.cdf(z), 1e-300))
        far = norm.logpdf(z) - 2 * np.log(np.maximum(-z, 1.0))
        return np.asarray(np.log(deviation) + np.where(z > -5, near, far))

    @property
    def loss(self) -> float:
        """The negative log marginal likelihood and the negative log prior of theta, up to a constant."""
        away = (self.theta - _center(self.x.shape[1])) / _LOOSE
        fit = 0.5 * self.y @ self._weights + np.log(np.diag(self._factor)).sum()
        return float(fit + 0.5 * away @ away)

    def shared(self, a: FloatArray | float, b: FloatArray | float) -> FloatArray:
        """Return g: the covariance of the deviations of two prefixes, 1 on the lowest rung and 0 on the last."""
        return np.asarray((1 / np.maximum(a, b) - 1 / self.total) / (1 / self.least - 1 / self.total))

    def _covariance(self, a: FloatArray, a_sizes: FloatArray, b: FloatArray, b_sizes: FloatArray) -> FloatArray:
        length, amplitude, own, noise = np.exp(self.theta)
        larger = np.maximum(a_sizes[:, None], b_sizes[None, :])
        shared = self.shared(larger, larger)
        distance = cdist(a, b)
        r = _ROOT5 * distance / length
        smooth = amplitude * (1 + r + r * r / 3) * np.exp(-r)
        same = noise * self.least / larger * (distance == 0)
        return np.asarray(_VAGUE * (1 + shared) + smooth * (1 + own * shared) + same)


def fit(x: FloatArray, sizes: FloatArray, losses: FloatArray, least: int, total: int) -> RungProcess:
    """Fit a process by its marginal likelihood under weak priors.

    Args:
        x: Points, (n, dimension).
        sizes: Numbers of examples, (n,).
        losses: Mean losses over those examples, (n,).
        least: Number of examples of the lowest rung.
        total: Number of all examples.
    """
    y = (losses - losses.mean()) / max(float(losses.std()), 1e-9)

    def process(theta: FloatArray) -> RungProcess:
        return RungProcess(x, sizes, y, theta, least, total)

    start = _center(x.shape[1])
    bounds = [(center - 4.0, center + 4.0) for center in start]
    found = minimize(
        lambda theta: process(theta).loss, start, method="L-BFGS-B", bounds=bounds, options={"maxiter": 15}
    )
    return process(np.asarray(found.x))


def _center(dimension: int) -> FloatArray:
    # Lengths grow with the cube's diagonal (https://arxiv.org/abs/2402.02229); the prior is centered at half of it.
    return np.log([0.5 * dimension**0.5, *_CENTERS])
