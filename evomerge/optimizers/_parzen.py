"""Parzen estimators over the unit cube: mixtures of truncated normal densities around points (Bergstra et al., 2011).
https://arxiv.org/abs/2304.11127

Weights and bandwidths are Optuna's, so that the same history gives the same proposals; here, the densities of all
candidates are two matrix products.

Shapes: points (n_points, dimension), kernels (n_kernels, dimension).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from evomerge.optimizers.base import FloatArray

#: The newest points, which all have the same weight; older ones have less, the oldest the least.
_NEWEST = 25
#: Largest number of kernels that a range is divided by to find the least bandwidth.
_FINEST = 100
_LOG_ROOT_2PI = 0.5 * np.log(2.0 * np.pi)


def weights(n_points: int) -> FloatArray:
    """Return the weights of points in the order of their trials, (n_points,), not normalized; the prior's is 1."""
    if n_points < _NEWEST:
        return np.ones(n_points)
    return np.concatenate([np.linspace(1.0 / n_points, 1.0, num=n_points - _NEWEST), np.ones(_NEWEST)])


def bandwidths(points: FloatArray) -> FloatArray:
    """Return the bandwidths around points: the distance to the farther neighbor in each coordinate, within bounds."""
    n_points, dimension = points.shape
    order = np.argsort(points, axis=0)
    ends = np.vstack([np.zeros(dimension), np.take_along_axis(points, order, axis=0), np.ones(dimension)])
    gaps = np.diff(ends, axis=0)
    found = np.maximum(gaps[:-1], gaps[1:])
    if n_points > 1:
        found[0], found[-1] = gaps[1], gaps[-2]
    widths = np.empty_like(points)
    np.put_along_axis(widths, order, found, axis=0)
    return np.clip(widths, least_bandwidth(n_points), 1.0)


def least_bandwidth(n_points: int) -> float:
    """Return the smallest bandwidth of an estimator around so many points."""
    return 1.0 / min(_FINEST, n_points + 2)


@dataclass(frozen=True, eq=False)
class Kernels:
    """Truncated normal densities, one per row; `constants` (n_kernels,) are their logarithms where a point is 0.

    The logarithm of a density is quadratic in the point: constants + points @ linear - points^2 @ square.
    """

    centers: FloatArray
    widths: FloatArray
    linear: FloatArray
    square: FloatArray
    constants: FloatArray

    @classmethod
    def around(cls, centers: FloatArray, widths: FloatArray) -> "Kernels":
        """Return kernels with the given centers and bandwidths, (n_kernels, dimension) each."""
        mass = ndtr((1.0 - centers) / widths) - ndtr(-centers / widths)
        logs = -0.5 * (centers / widths) ** 2 - np.log(widths * mass) - _LOG_ROOT_2PI
        return cls(centers, widths, centers / widths**2, 0.5 / widths**2, logs.sum(axis=1))

    def log_densities(self, points: FloatArray) -> FloatArray:
        """Return the logarithm of each density at each point, (n_points, n_kernels)."""
        return np.asarray(points @ self.linear.T - points**2 @ self.square.T + self.constants)

    def draw(self, rows: NDArray[np.int64], quantiles: FloatArray) -> FloatArray:
        """Return the quantiles (n_points, dimension) of the kernels in `rows`, (n_points,)."""
        centers, widths = self.centers[rows], self.widths[rows]
        low, high = ndtr(-centers / widths), ndtr((1.0 - centers) / widths)
        return np.asarray(np.clip(centers + widths * ndtri(low + quantiles * (high - low)), 0.0, 1.0))


def prior(dimension: int) -> Kernels:
    """Return the one wide kernel that every estimator has besides those around its points."""
    return Kernels.around(np.full((1, dimension), 0.5), np.ones((1, dimension)))


@dataclass(frozen=True, eq=False)
class Estimator:
    """A mixture of groups of kernels; log_weights: (n_kernels,) over all groups in their order."""

    groups: tuple[Kernels, ...]
    log_weights: FloatArray

    @classmethod
    def around(cls, points: FloatArray) -> "Estimator":
        """Return the estimator of points in the order of their trials."""
        groups = (Kernels.around(points, bandwidths(points)), prior(points.shape[1]))
        return cls.weighted(groups, weights(len(points)))

    @classmethod
    def weighted(cls, groups: tuple[Kernels, ...], given: FloatArray) -> "Estimator":
        """Return a mixture; given: weights of all kernels but the last one, which is the prior."""
        each = np.append(given, 1.0)
        with np.errstate(divide="ignore"):
            return cls(groups, np.log(each / each.sum()))

    def log_density(self, points: FloatArray) -> FloatArray:
        """Return the logarithms of the density, (n_points,)."""
        each = np.hstack([group.log_densities(points) for group in self.groups]) + self.log_weights
        most = each.max(axis=1)
        return np.asarray(most + np.log(np.exp(each - most[:, None]).sum(axis=1)))

    def sample(self, rng: np.random.RandomState, n_points: int) -> FloatArray:
        """Draw points, (n_points, dimension), from an estimator of `around`."""
        share = np.exp(self.log_weights)
        rows = np.asarray(rng.choice(len(share), p=share / share.sum(), size=n_points), dtype=np.int64)
        points, wide = self.groups
        every = Kernels(
            *(np.concatenate(parts) for parts in zip(vars(points).values(), vars(wide).values(), strict=True))
        )
        return every.draw(rows, rng.uniform(size=(points.centers.shape[1], n_points)).T)
