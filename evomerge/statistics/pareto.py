"""Pareto fronts of losses, smaller is better: membership, hypervolume, and distance between fronts.

Losses have shape (n_points, n_objectives). The indicators are moocore's.
https://multi-objective.github.io/moocore/python/, imported where they are called: that takes as long as NumPy's.
"""

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


def non_dominated(losses: FloatArray) -> BoolArray:
    """Return which points are non-dominated, (n_points,); points with equal losses have equal results."""
    import moocore

    return np.asarray(moocore.is_nondominated(losses, keep_weakly=True), dtype=np.bool_)


def differing(losses: FloatArray) -> BoolArray:
    """Return the objectives in which points differ, (n_objectives,): any other has no extent and makes volumes 0."""
    return np.asarray(np.ptp(losses, axis=0) > 0, dtype=np.bool_)


def hypervolume(losses: FloatArray, reference: FloatArray) -> float:
    """Return the volume dominated by the points up to `reference`, (n_objectives,); points beyond it add nothing."""
    import moocore

    return float(moocore.hypervolume(losses, ref=reference))


def igd_plus(losses: FloatArray, front: FloatArray) -> float:
    """Return IGD+ (Ishibuchi et al., 2015): the mean distance by which points of `front` dominate the nearest of
    `losses`.

    front: (n_front, n_objectives). 0 if every one of its points is reached. https://doi.org/10.1007/978-3-319-15892-1_8
    """
    import moocore

    return float(moocore.igd_plus(losses, ref=front))
