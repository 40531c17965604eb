"""Values of several groups with a fixed mean: one coordinate fewer than groups, and no point without values.

Notation: u (n_groups, n) positions between the bounds of a parameter, from 0 to 1, whose mean over the groups is m. The
groups take their positions in turn. With r groups still to come and l of the sum n_groups m left, a position lies
between max(0, l - r) and min(1, l), and the coordinate says where; the last group takes what is left.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from search_spaces._columns import IntArray
from search_spaces._table import FloatArray, Parameter


@dataclass(frozen=True, eq=False)
class FixedMean:
    """A nonlinear `Blend`: the first n_groups of the searched groups have a fixed mean, tied ones are free.

    groups: names, (n_groups,). mean: m, in [0, 1]. ties: names of further slots. tied: slot among `ties` of each group
    after the first n_groups, in order.
    """

    groups: tuple[str, ...]
    mean: float
    ties: tuple[str, ...]
    tied: IntArray

    @property
    def slots(self) -> tuple[str, ...]:
        """Names of the groups but the last one, and of the ties."""
        return (*self.groups[:-1], *self.ties)

    def __call__(self, points: FloatArray) -> FloatArray:
        """Map points of slots (n_slots, n) to positions of groups, (n_groups + n_tied, n)."""
        n_groups, n_free = len(self.groups), max(len(self.groups) - 1, 0)
        positions = np.zeros((n_groups, points.shape[1]))
        left = np.full(points.shape[1], n_groups * self.mean)
        for k in range(n_free):
            low, high = self._bounds(k, left)
            positions[k] = low + points[k] * (high - low)
            left = left - positions[k]
        if n_groups:
            positions[-1] = np.clip(left, 0.0, 1.0)
        return np.concatenate([positions, points[n_free:][self.tied]])

    def solve(self, points: FloatArray) -> FloatArray:
        """Return points of slots that give these positions of groups, moved together to the mean where it is another.

        A coordinate without effect is 0.5.
        """
        n_groups, n_free = len(self.groups), max(len(self.groups) - 1, 0)
        found = np.full((n_free + len(self.ties), points.shape[1]), 0.5)
        for column in range(points.shape[1]):
            positions = _moved(points[:n_groups, column], self.mean)
            left = n_groups * self.mean
            for k in range(n_free):
                low, high = self._bounds(k, np.array(left))
                if high > low:
                    found[k, column] = np.clip((positions[k] - low) / (high - low), 0.0, 1.0)
                left -= low + found[k, column] * (high - low)
        found[n_free + self.tied] = points[n_groups:]
        return found

    def pull_back(self, points: FloatArray, gradient: FloatArray) -> FloatArray:
        """Return the gradient by points of slots (n_slots, n), given the one by positions (n_groups + n_tied, n)."""
        n_groups, n_free = len(self.groups), max(len(self.groups) - 1, 0)
        positions = self(points)
        slots = np.zeros_like(points)
        by_left = gradient[n_groups - 1] if n_groups else np.zeros(points.shape[1])
        for k in reversed(range(n_free)):
            left = n_groups * self.mean - positions[:k].sum(axis=0)
            low, high = self._bounds(k, left)
            by_position = gradient[k] - by_left
            slots[k] = by_position * (high - low)
            low_moves, high_moves = left > n_groups - 1 - k, left < 1.0
            by_left = by_left + by_position * ((1.0 - points[k]) * low_moves + points[k] * high_moves)
        np.add.at(slots, n_free + self.tied, gradient[n_groups:])
        return slots

    def mean_by_slot(self, values: FloatArray) -> FloatArray:
        """Return the values of the slots' groups, given those of all groups, (n_groups + n_tied,)."""
        n_groups = len(self.groups)
        ties = [values[n_groups:][self.tied == tie].mean() for tie in range(len(self.ties))]
        return np.concatenate([values[: max(n_groups - 1, 0)], np.array(ties)])

    def with_ties(self, ties: Mapping[str, int]) -> "FixedMean":
        """Return this blend with one more slot per tie at the end; ties: label -> number of groups sharing it."""
        tied = np.repeat(np.arange(len(self.ties), len(self.ties) + len(ties)), list(ties.values()))
        return FixedMean(
            self.groups, self.mean, (*self.ties, *ties), np.concatenate([self.tied, tied]).astype(np.int64)
        )

    def _bounds(self, k: int, left: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the least and the largest position of group k if the groups from there on have the sum `left`."""
        to_come = len(self.groups) - 1 - k
        return np.maximum(0.0, left - to_come), np.minimum(1.0, left)


def with_mean(parameter: Parameter, mean: float | None) -> Callable[[Sequence[str]], FixedMean] | None:
    """Return the blend in which a parameter's values have a mean; None without a mean or with a single value."""
    if mean is None or parameter.low == parameter.high:
        return None
    position = (mean - parameter.low) / (parameter.high - parameter.low)
    return lambda groups: FixedMean(tuple(groups), position, (), np.zeros(0, dtype=np.int64))


def _moved(positions: FloatArray, mean: float) -> FloatArray:
    """Add one number to all positions (n_groups,), clipped to [0, 1], so that they have the mean."""
    if not len(positions) or abs(positions.mean() - mean) <= 1e-13:
        return positions

    from scipy.optimize import brentq  # its import takes longer than most commands

    def away(shift: float) -> float:
        return float(np.clip(positions + shift, 0.0, 1.0).mean() - mean)

    return np.asarray(np.clip(positions + brentq(away, -1.0, 1.0, xtol=1e-15), 0.0, 1.0))
