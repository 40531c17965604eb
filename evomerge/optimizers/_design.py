"""The points that a surrogate is first fitted on."""

from collections.abc import Iterable, Iterator
from itertools import count, islice
from math import comb

import numpy as np

from evomerge.optimizers._quasi_random import sobol_point
from evomerge.optimizers.base import FloatArray

#: The most points of a default design, unless there are more coordinates than it could tell apart.
_LARGEST = 45


def full_size(dimension: int) -> int:
    """As many points as a full quadratic has coefficients, (K+1)(K+2)/2, but at most 45, or 2K+1 if that is more."""
    return min(comb(dimension + 2, 2), max(_LARGEST, 2 * dimension + 1))


def design(start: FloatArray, seed: int, size: int) -> Iterator[FloatArray]:
    """Points without end: `start` (dimension,), then scrambled Sobol points, every other one a one-hot or uniform
    point while there are such. A coordinate's 1 is the upper end of its range.

    size: of the design; one-hot points are at most half of it.
    """
    dimension = len(start)
    uniform = [np.full(dimension, 1.0 / dimension), np.full(dimension, 0.5)]
    given = iter([*np.eye(dimension)[: size // 2], *uniform])
    yield start
    for index in count():
        yield sobol_point(dimension, seed, index)
        yield from islice(given, 1)


def n_distinct(points: Iterable[FloatArray]) -> int:
    """How many different points there are."""
    return len({tuple(x.tolist()) for x in points})


def distance(x: FloatArray, points: Iterable[FloatArray]) -> float:
    """The largest difference in a coordinate to the nearest of `points`; infinite where there is none."""
    return min((float(np.abs(x - other).max()) for other in points), default=np.inf)
