"""A score with its standard error and confidence interval, and the paired difference of two scores."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from evomerge.errors import EvomergeError
from evomerge.statistics import intervals
from evomerge.statistics.clusters import Clusters, Sample, sample
from evomerge.statistics.distributions import student_cdf
from evomerge.statistics.intervals import ROUNDING, Z95, FloatArray, Part
from evomerge.statistics.sign_test import sign_test


class StatisticsError(EvomergeError):
    """Values that cannot be compared."""


@dataclass(frozen=True)
class Estimate:
    """A mean over examples (or a sum of task means) with its standard error.

    n_examples: number of distinct ones. bounds: 95 % interval computed from the values; None for the normal one.
    """

    mean: float
    standard_error: float
    n_examples: int
    bounds: tuple[float, float] | None = field(default=None, kw_only=True)

    @property
    def interval(self) -> tuple[float, float]:
        """95 % confidence interval."""
        half = Z95 * self.standard_error
        return (self.mean - half, self.mean + half) if self.bounds is None else self.bounds

    @property
    def half_width(self) -> float:
        """Half the width of the interval, the number after the plus-minus sign."""
        low, high = self.interval
        return (high - low) / 2

    @property
    def has_interval(self) -> bool:
        """Whether there is an interval to show: a single value or equal values have none."""
        return ROUNDING * abs(self.mean) < self.half_width < math.inf


@dataclass(frozen=True)
class Difference(Estimate):
    """A paired difference a - b.

    p: exact (McNemar) if the differences of each task have a single size, else Student's, from the variance of the
    interval; 1 if the examples do not differ. Its interval is symmetric. by_constants: whether the difference comes
    entirely from constants, which have no sampling error, since the examples do not differ.
    """

    p: float
    by_constants: bool = field(default=False, kw_only=True)

    @property
    def shown(self) -> bool:
        """Whether a is significantly better than b, at 5 %."""
        return self.p < 0.05 and self.mean > 0


def estimate(
    values: Mapping[str, FloatArray],
    *,
    sizes: Mapping[str, float] | None = None,
    constant: float = 0.0,
    clusters: Clusters | None = None,
) -> Estimate:
    """Estimate the sum over tasks of the mean over examples; tasks are independent samples. NaN = not scored.

    sizes: value of a right answer in each task of zeros and ones. Inferred from the values, except if all answers are
    wrong; then it defaults to the largest of the other tasks, or 1. If it is given, a value of another size that all
    examples share is a constant, without sampling error. constant: added to the sum of the tasks. clusters: duplicate
    examples, which count once.
    Raises StatisticsError for a task without a scored example.
    """
    scored = {task: _scored(task, column, clusters) for task, column in values.items()}
    ones = _sizes({task: _one_size(column.values, task, sizes) for task, column in scored.items()}, sizes)
    parts = [
        _zeros_and_ones(column, ones[task], len(ones)) if task in ones else _graded(column)
        for task, column in scored.items()
    ]
    moments = _moments(scored, constant)
    return Estimate(*moments, bounds=intervals.interval([*parts, Part(constant, 0.0)], around=moments[0]))


def difference(
    a: Mapping[str, FloatArray],
    b: Mapping[str, FloatArray],
    *,
    sizes: Mapping[str, float] | None = None,
    constant: float = 0.0,
    clusters: Clusters | None = None,
) -> Difference:
    """Estimate the paired difference a - b: the sum over tasks of the mean of per-example differences.

    a, b: task -> values in the same example order. Examples without a score on either side are ignored.
    sizes, clusters: as for `estimate`. constant: a's lead in addition to the tasks.
    Raises StatisticsError for a task without an example scored on both sides.
    """
    deltas = {task: _scored(task, a[task] - b[task], clusters) for task in a}
    found = {task: _one_size(delta.values, task, sizes, paired=True) for task, delta in deltas.items()}
    for task, size in found.items():
        if size == 0:  # no differences: only the values tell whether they are zeros and ones
            both = np.concatenate([a[task], b[task]])
            found[task] = _one_size(both[~np.isnan(both)], task, sizes, paired=True)
    ones = {task: abs(size) for task, size in _sizes(found, sizes).items()}
    parts = [
        _wins_and_losses(delta, ones[task], len(ones)) if task in ones else _graded(delta)
        for task, delta in deltas.items()
    ]
    parts.append(Part(constant, 0.0))
    moments = _moments(deltas, constant)
    differ = any(_differs(delta, paired_ones=task in ones) for task, delta in deltas.items())
    if not differ:  # the variance floor would make any large constant significant
        p = 1.0
    elif len(ones) == len(deltas) and constant == 0:
        p = _exact([(delta, ones[task]) for task, delta in deltas.items()])
    else:
        p = _student(parts)
    by_constants = not differ and moments[0] != 0
    return Difference(*moments, p, bounds=intervals.interval(parts, around=moments[0]), by_constants=by_constants)


def standard_error(values: FloatArray) -> float:
    """Return sqrt(sum (s - m)^2 / (n (n - 1))); infinite for fewer than two values."""
    return math.sqrt(sample(values, None).variance_of_mean)


def _scored(task: str, column: FloatArray, clusters: Clusters | None) -> Sample:
    known = ~np.isnan(column)
    if not known.any():
        raise StatisticsError(f"Task {task!r} has no scored example among {len(column)}; remove the task.")
    repeats = None if clusters is None else clusters.get(task)
    return sample(column[known], None if repeats is None else repeats[known])


def _moments(columns: Mapping[str, Sample], constant: float) -> tuple[float, float, int]:
    mean = float(sum(column.mean for column in columns.values())) + constant
    variance = sum(column.variance_of_mean for column in columns.values())
    return mean, math.sqrt(variance), sum(column.size for column in columns.values())


def _zeros_and_ones(column: Sample, size: float, n_tasks: int) -> Part:
    right = column.effective_part(column.values != 0)
    return intervals.mean_of_zeros_and_ones(right, column.effective, size, n_tasks)


def _wins_and_losses(delta: Sample, size: float, n_tasks: int) -> Part:
    wins, losses = delta.effective_part(delta.values > 0), delta.effective_part(delta.values < 0)
    return intervals.mean_of_wins_and_losses(wins, losses, delta.effective, size, n_tasks)


def _graded(column: Sample) -> Part:
    return Part(float(column.mean), column.variance_of_mean, column.degrees)


def _differs(delta: Sample, *, paired_ones: bool) -> bool:
    """Return whether the examples differ (for a single model: may differ); a constant difference does not count."""
    return bool(np.any(delta.values)) if paired_ones else delta.size < 2 or bool(np.ptp(delta.values))


def _exact(deltas: Sequence[tuple[Sample, float]]) -> float:
    """Perform McNemar's test on differences of one size per task; frequent examples weigh more in the statistic."""
    wins, losses, weights = [], [], []
    for delta, size in deltas:
        for weight in np.unique(delta.weights):
            alike = delta.values[delta.weights == weight]
            wins.append(int(np.sum(alike > 0)))
            losses.append(int(np.sum(alike < 0)))
            weights.append(size * weight / delta.weights.sum())
    return sign_test(wins, losses, weights)


def _one_size(
    column: FloatArray, task: str, given: Mapping[str, float] | None, *, paired: bool = False
) -> float | None:
    """Return the only value besides 0; 0 for only zeros, None if there are several values or it is a constant.

    paired: for differences, whose sign is ignored.
    """
    sizes = np.abs(column) if paired else column
    others = sizes[sizes != 0]
    if not len(others):
        return 0.0
    if not np.all(others == others[0]):
        return None
    alike = len(others) == len(column) and np.all(column == column[0])
    constant = alike and given is not None and task in given and not math.isclose(abs(others[0]), abs(given[task]))
    return None if constant else float(others[0])


def _sizes(found: Mapping[str, float | None], given: Mapping[str, float] | None) -> dict[str, float]:
    """Return the value of a one in each task of zeros and ones; a size not inferred from values is given or guessed."""
    known = [abs(size) for size in found.values() if size]
    guess = max(known, default=1.0)
    told = given or {}
    return {task: size or told.get(task, guess) for task, size in found.items() if size is not None}


def _student(parts: list[Part]) -> float:
    mean, variance = sum(part.centre for part in parts), sum(part.variance for part in parts)
    if variance == 0:
        return 1.0 if mean == 0 else 0.0
    return 2 * student_cdf(intervals.degrees(parts), -abs(mean) / math.sqrt(variance))
