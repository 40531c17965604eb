"""Covariances over the unit cube: a full quadratic and an anisotropic Matern 5/2 (Rasmussen and Williams, 2006,
chapter 4), alone or summed. https://gaussianprocess.org/gpml/

Shapes: a (n_a, dimension) and b (n_b, dimension) are points.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial.distance import cdist

from evomerge.optimizers.base import FloatArray

_ROOT5 = 5.0**0.5


def mixed(a: FloatArray, b: FloatArray) -> FloatArray:
    """Return inner products relative to the center of the cube, from -1 to 1 at its corners: (n_a, n_b)."""
    return np.asarray((2.0 * a - 1.0) @ (2.0 * b - 1.0).T / a.shape[1])


@dataclass(frozen=True, eq=False)
class Kernel:
    """k = constant + linear t + square t^2 + amplitude matern(r), with t = `mixed` and r scaled by `lengths`.

    The first three terms are the prior of a quadratic with independent normal coefficients: a ridge regression whose
    cost does not depend on the number of coefficients. lengths: length scales of the Matern term, (dimension,).
    warp: linear map around the center of the cube, (dimension, dimension), applied to all points first.
    """

    constant: float
    linear: float
    square: float
    amplitude: float
    lengths: FloatArray
    warp: FloatArray | None = None

    def __call__(self, a: FloatArray, b: FloatArray) -> FloatArray:
        """Return the covariances (n_a, n_b)."""
        a, b = self._warped(a), self._warped(b)
        t = mixed(a, b)
        k = self.constant + (self.linear + self.square * t) * t
        if self.amplitude:
            r = _ROOT5 * cdist(a / self.lengths, b / self.lengths)
            k += self.amplitude * (1.0 + r + r * r / 3.0) * np.exp(-r)
        return np.asarray(k)

    def diagonal(self, a: FloatArray) -> FloatArray:
        """Return the variances (n_a,)."""
        a = self._warped(a)
        t = np.sum((2.0 * a - 1.0) ** 2, axis=1) / a.shape[1]
        return np.asarray(self.constant + (self.linear + self.square * t) * t + self.amplitude)

    def weighted(self, a: FloatArray, b: FloatArray, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return k(a, b) @ weights, (n_a,), and its gradient in a, (n_a, dimension); weights: (n_b,)."""
        a, b = self._warped(a), self._warped(b)
        t = mixed(a, b)
        values = (self.constant + (self.linear + self.square * t) * t) @ weights
        gradient = ((self.linear + 2.0 * self.square * t) * weights) @ (2.0 * (2.0 * b - 1.0) / a.shape[1])
        if self.amplitude:
            r = _ROOT5 * cdist(a / self.lengths, b / self.lengths)
            decay = self.amplitude * np.exp(-r) * weights
            values = values + ((1.0 + r + r * r / 3.0) * decay).sum(axis=1)
            pull = 5.0 / 3.0 * (1.0 + r) * decay
            gradient = gradient - (a * pull.sum(axis=1)[:, None] - pull @ b) / self.lengths**2
        return values, gradient if self.warp is None else gradient @ self.warp.T

    def _warped(self, points: FloatArray) -> FloatArray:
        return points if self.warp is None else 0.5 + (points - 0.5) @ self.warp

    def scaled(self, factor: float) -> "Kernel":
        """Return the same shape with `factor` times the variance."""
        return replace(
            self,
            constant=factor * self.constant,
            linear=factor * self.linear,
            square=factor * self.square,
            amplitude=factor * self.amplitude,
        )


def quadratic(dimension: int, curvature: float) -> Kernel:
    """Return the kernel of a full quadratic; curvature: prior variance of second-order terms relative to the others."""
    return Kernel(10.0, 1.0, curvature, 0.0, np.ones(dimension))
