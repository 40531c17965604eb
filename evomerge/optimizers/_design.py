"""Initial designs: the points that a surrogate is first fitted to."""

from collections.abc import Iterable, Iterator
from itertools import count, islice
from math import comb

import numpy as np

from evomerge.optimizers._quasi_random import sobol_point
from evomerge.optimizers._regions import one_hot
from evomerge.optimizers.base import FloatArray, Positions

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


def tied_design(start: FloatArray, seed: int, size: int, positions: Positions) -> Iterator[FloatArray]:
    """Yield design points without end for a space of many coordinates, most of them with one value per series.

    `start` comes first; then `design` for the series, in turn as it is and halfway to the start's means, as good points
    are few in a large cube and the start is often one of them. size: design size.
    """
    spread = one_hot(positions)
    center = spread @ start / spread.sum(axis=1)
    yield start
    for index, z in enumerate(islice(design(center, seed, size), 1, None)):
        yield (z if index % 2 else (z + center) / 2.0) @ spread


def n_distinct(points: Iterable[FloatArray]) -> int:
    """Return the number of distinct points."""
    return len({tuple(x.tolist()) for x in points})


def distance(x: FloatArray, points: Iterable[FloatArray]) -> float:
    """Return the Chebyshev distance from `x` to the nearest of `points`; infinite if there are none."""
    return min((float(np.abs(x - other).max()) for other in points), default=np.inf)
