"""Initial designs: the points that a surrogate is first fitted to."""

from collections.abc import Iterable, Iterator
from itertools import count, islice
from math import comb

import numpy as np

from evomerge.optimizers._quasi_random import sobol_point
from evomerge.optimizers.base import FloatArray

#: Largest default design, unless the dimension requires more points to separate the coordinates.
_LARGEST = 45


def full_size(dimension: int) -> int:
    """Return the coefficients of a full quadratic, (K+1)(K+2)/2, capped at 45 or 2K+1, whichever is larger."""
    return min(comb(dimension + 2, 2), max(_LARGEST, 2 * dimension + 1))


def design(start: FloatArray, seed: int, size: int) -> Iterator[FloatArray]:
    """Yield design points without end: `start` (dimension,), then scrambled Sobol points, alternating with one-hot and
    uniform points while these last. A coordinate of 1 is the upper end of its range.

    size: design size; at most half of it is one-hot points.
    """
    dimension = len(start)
    uniform = [np.full(dimension, 1.0 / dimension), np.full(dimension, 0.5)]
    given = iter([*np.eye(dimension)[: size // 2], *uniform])
    yield start
    for index in count():
        yield sobol_point(dimension, seed, index)
        yield from islice(given, 1)


def n_distinct(points: Iterable[FloatArray]) -> int:
    """Return the number of distinct points."""
    return len({tuple(x.tolist()) for x in points})


def distance(x: FloatArray, points: Iterable[FloatArray]) -> float:
    """Return the Chebyshev distance from `x` to the nearest of `points`; infinite if there are none."""
    return min((float(np.abs(x - other).max()) for other in points), default=np.inf)
