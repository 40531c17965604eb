"""A score with its standard error and interval, and the paired difference of two scores."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from scipy import stats

from evomerge.statistics import intervals
from evomerge.statistics.intervals import Z95, FloatArray, Part
from evomerge.statistics.sign_test import sign_test

#: An interval that is narrower than this share of its mean is rounding.
ROUNDING = 1e-12


class StatisticsError(ValueError):
    """Values that cannot be compared."""


@dataclass(frozen=True)
class Estimate:
    """A mean over examples (or a sum of several task means) with its standard error.

    bounds: the 95 % interval where values are known; without it, the normal one.
    """

    mean: float
    standard_error: float
    n_examples: int
    bounds: tuple[float, float] | None = field(default=None, kw_only=True)

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval."""
        half = Z95 * self.standard_error
        return (self.mean - half, self.mean + half) if self.bounds is None else self.bounds

    @property
    def half_width(self) -> float:
        """Half the width of the interval: what stands behind the plus-minus sign."""
        low, high = self.interval
        return (high - low) / 2

    @property
    def has_interval(self) -> bool:
        """Whether there is an interval to show: none is known of one value, and equal ones tell none."""
        return ROUNDING * abs(self.mean) < self.half_width < math.inf


@dataclass(frozen=True)
class Difference(Estimate):
    """A paired difference a - b.

    p: exact (McNemar) where the differences of each task have one size, else Student's. Its interval is symmetric.
    """

    p: float

    @property
    def shown(self) -> bool:
        """Whether a was shown to be better than b, at 5 %."""
        return self.p < 0.05 and self.mean > 0


def estimate(values: Mapping[str, FloatArray], *, sizes: Mapping[str, float] | None = None) -> Estimate:
    """Sum over tasks of the mean over examples; tasks are independent samples. NaN = not scored.

    sizes: what a right answer counts in each task of zeros and ones. It is read off the values; only where all answers
    are wrong it cannot be, and then it is taken for the largest of the other tasks, or 1.
    Raises StatisticsError for a task without a scored example.
    """
    scored = {task: _scored(task, column) for task, column in values.items()}
    found = {task: _one_size(column) for task, column in scored.items()}
    ones = _sizes(found, sizes)
    parts = [
        intervals.mean_of_zeros_and_ones(int(np.count_nonzero(column)), len(column), ones[task], len(ones))
        if task in ones
        else intervals.mean_of_graded(column)
        for task, column in scored.items()
    ]
    return Estimate(*_moments(scored), bounds=intervals.interval(parts))


def difference(
    a: Mapping[str, FloatArray], b: Mapping[str, FloatArray], *, sizes: Mapping[str, float] | None = None
) -> Difference:
    """Paired difference a - b: sum over tasks of the mean of per-example differences.

    a, b: task -> values in the same example order. Examples that either side lacks are left out of both.
    sizes: as for `estimate`. Raises StatisticsError for a task without an example that both were scored on.
    """
    deltas = {task: _scored(task, a[task] - b[task]) for task in a}
    found = {task: _one_size(np.abs(delta)) for task, delta in deltas.items()}
    for task, size in found.items():
        if size == 0:  # they never differ: only the values say whether they are zeros and ones
            both = np.concatenate([a[task], b[task]])
            found[task] = _one_size(np.abs(both[~np.isnan(both)]))
    ones = _sizes(found, sizes)
    counts = {task: (int(np.sum(delta > 0)), int(np.sum(delta < 0))) for task, delta in deltas.items()}
    parts = [
        intervals.mean_of_wins_and_losses(*counts[task], len(delta), ones[task], len(ones))
        if task in ones
        else intervals.mean_of_graded(delta)
        for task, delta in deltas.items()
    ]
    moments = _moments(deltas)
    if len(ones) == len(deltas):
        weights = [abs(ones[task]) / len(delta) for task, delta in deltas.items()]
        p = sign_test([won for won, _ in counts.values()], [lost for _, lost in counts.values()], weights)
    else:
        p = _student([intervals.mean_of_graded(delta) for delta in deltas.values()])
    return Difference(*moments, p, bounds=intervals.interval(parts))


def standard_error(values: FloatArray) -> float:
    """sqrt(sum (s - m)^2 / (n (n - 1))); infinite for fewer than two values."""
    n = len(values)
    return float(np.sqrt(np.sum((values - values.mean()) ** 2) / (n * (n - 1)))) if n > 1 else math.inf


def _scored(task: str, column: FloatArray) -> FloatArray:
    scored = column[~np.isnan(column)]
    if not len(scored):
        raise StatisticsError(f"Task {task!r} has no example with a score, of {len(column)}; leave the task out.")
    return scored


def _moments(columns: Mapping[str, FloatArray]) -> tuple[float, float, int]:
    mean = float(sum(column.mean() for column in columns.values()))
    variance = sum(standard_error(column) ** 2 for column in columns.values())
    return mean, math.sqrt(variance), sum(map(len, columns.values()))


def _one_size(column: FloatArray) -> float | None:
    """The one value beside 0; 0 where there are only zeros, None where there are several."""
    others = column[column != 0]
    if not len(others):
        return 0.0
    return float(others[0]) if np.all(others == others[0]) else None


def _sizes(found: Mapping[str, float | None], given: Mapping[str, float] | None) -> dict[str, float]:
    """The tasks of zeros and ones with what a one counts; a size that the values do not tell is given or guessed."""
    known = [abs(size) for size in found.values() if size]
    guess = max(known, default=1.0)
    told = given or {}
    return {task: size or told.get(task, guess) for task, size in found.items() if size is not None}


def _student(parts: list[Part]) -> float:
    mean, variance = sum(part.centre for part in parts), sum(part.variance for part in parts)
    if variance == 0:
        return 1.0 if mean == 0 else 0.0
    return float(2 * stats.t.sf(abs(mean) / math.sqrt(variance), intervals.degrees(parts)))
