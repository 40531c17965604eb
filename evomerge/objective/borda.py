"""Borda count: how many of some models a merge beats, averaged over the tasks (Borda, 1781).

Of m models, the count on a task is the number of those that score lower, plus half of those that score the same; the
value is its share of m. Between two of their scores it is interpolated, so that a search has a slope to follow: it
equals the count at the score of every model. Beyond the best score s, with c models at it, the value rises from
1 - c / 2m toward 1 as 2d / (2d + g), where d is the distance from s and g the mean gap between neighboring scores;
below the worst score it falls toward 0 in the same way. So no task can outweigh the others, whatever its unit.
"""

import numpy as np

from evomerge.objective.objective import FloatArray

#: Decimals to which scores are equal: the last bits of equal means depend on how they were added up.
_DECIMALS = 12


def borda(losses: FloatArray, models: FloatArray, shares: FloatArray) -> float:
    """Return the weighted mean of the shares of models that a merge beats on each task, from 0 to 1.

    Args:
        losses: Of the merge by task, (n_tasks,), smaller is better.
        models: Of the models to compare with, (n_models, n_tasks), at least one.
        shares: Weight of each task, (n_tasks,), summing to 1.

    Example:
        >>> models = np.array([[-0.5, -0.2], [-0.7, -0.2]])
        >>> borda(np.array([-0.5, -0.2]), models, np.array([0.5, 0.5]))
        0.375
    """
    beaten = [_beaten(loss, column) for loss, column in zip(losses, models.T, strict=True)]
    return float(np.array(beaten) @ shares)


def _beaten(loss: float, others: FloatArray) -> float:
    """Return the share of models that a loss beats on one task; others: their losses, (n_models,)."""
    loss = round(float(loss), _DECIMALS)
    levels, counts = np.unique(np.round(others, _DECIMALS), return_counts=True)  # the best one first
    m = len(others)
    beaten = (m - np.cumsum(counts) + counts / 2) / m
    gap = (levels[-1] - levels[0]) / max(1, m - 1)
    if loss < levels[0]:
        return float(1.0 - (1.0 - beaten[0]) * (1.0 - _part(levels[0] - loss, gap)))
    if loss > levels[-1]:
        return float(beaten[-1] * (1.0 - _part(loss - levels[-1], gap)))
    return float(np.interp(loss, levels, beaten))


def _part(distance: float, gap: float) -> float:
    """Return the part, from 0 to 1, of what is left beyond the last score; distance: above 0."""
    return 2.0 * distance / (2.0 * distance + gap)
