"""Scrambled Sobol points (Owen scrambling), addressed by their index. https://doi.org/10.1006/jcom.1998.0487."""

import numpy as np
from numpy.typing import NDArray
from scipy.stats import qmc


def sobol_point(dimension: int, seed: int, index: int) -> NDArray[np.float64]:
    """Return point `index` of the sequence scrambled by `seed`, (dimension,), in [0, 1)."""
    engine = qmc.Sobol(dimension, scramble=True, rng=np.random.default_rng(seed))
    if index:  # the library cannot skip 0 points
        engine.fast_forward(index)
    return np.asarray(engine.random(1)[0], dtype=np.float64)


def sobol_points(dimension: int, seed: int, n: int) -> NDArray[np.float64]:
    """Return the first n points, (n, dimension); n is a power of two."""
    points = qmc.Sobol(dimension, scramble=True, rng=np.random.default_rng(seed)).random(n)
    return np.asarray(points, dtype=np.float64)
