"""A few of many points, as far from each other as few points can be."""

import numpy as np
from numpy.typing import NDArray

from evomerge.objective import FloatArray


def spread(points: FloatArray, count: int) -> NDArray[np.int64]:
    """Rows of `count` of the points, ascending; all of them where there are no more.

    points: (n_points, n_objectives). Every objective is scaled to the range that the points have. Taken one by one
    from row 0 on, always the point that is farthest from those taken (Gonzalez, 1985), which is at most twice as far
    from an optimal choice. https://doi.org/10.1016/0304-3975(85)90224-5
    """
    if len(points) <= count:
        return np.arange(len(points))
    low, high = points.min(axis=0), points.max(axis=0)
    wide = high > low
    scaled = (points[:, wide] - low[wide]) / (high - low)[wide]
    taken = [0]
    distances = np.full(len(points), np.inf)
    while len(taken) < count:
        distances = np.minimum(distances, np.linalg.norm(scaled - scaled[taken[-1]], axis=1))
        taken.append(int(distances.argmax()))
    return np.unique(taken)
