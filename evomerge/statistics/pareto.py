"""Pareto fronts of losses, smaller is better: which points are on one, what it covers, how far it is from another.

Everywhere losses have shape (n_points, n_objectives). The indicators are moocore's.
https://multi-objective.github.io/moocore/python/
"""

import moocore
import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


def non_dominated(losses: FloatArray) -> BoolArray:
    """Which points no other point beats, (n_points,); points with equal losses stand or fall together."""
    return np.asarray(moocore.is_nondominated(losses, keep_weakly=True), dtype=np.bool_)


def differing(losses: FloatArray) -> BoolArray:
    """The objectives in which points differ, (n_objectives,): another has no extent, and would make any volume 0."""
    return np.asarray(np.ptp(losses, axis=0) > 0, dtype=np.bool_)


def hypervolume(losses: FloatArray, reference: FloatArray) -> float:
    """The volume between the front of the points and `reference` (n_objectives,); what is behind it adds nothing."""
    return float(moocore.hypervolume(losses, ref=reference))


def igd_plus(losses: FloatArray, front: FloatArray) -> float:
    """IGD+ (Ishibuchi et al., 2015): how far, on average, the points of `front` lie ahead of the nearest of `losses`.

    front: (n_front, n_objectives). 0 where every one of its points is reached. https://doi.org/10.1007/978-3-319-15892-1_8
    """
    return float(moocore.igd_plus(losses, ref=front))
