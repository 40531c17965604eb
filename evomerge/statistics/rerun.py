"""Noise of the evaluation itself: one model scored twice on the same examples."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from evomerge.statistics.estimates import Difference, difference
from evomerge.statistics.intervals import FloatArray


@dataclass(frozen=True)
class Rerun:
    """What changed when one model was scored again.

    changed: share of the examples with another value; of seconds that is all of them, and the rest says how much.
    difference: second minus first; when its p is small, something that all examples share has changed (a seed, a
    version, a batch size), and no standard error covers that. standard_error: how far noise that is independent from
    example to example moves one run's score. Standard errors of scores and differences contain it already.
    """

    changed: float
    difference: Difference
    standard_error: float


def rerun(first: Mapping[str, FloatArray], second: Mapping[str, FloatArray]) -> Rerun:
    """Compare two runs of one model: task -> values in the same example order. Raises StatisticsError."""
    whole = difference(second, first)
    gaps = [_shared(second[task] - first[task]) for task in first]
    changed = sum(int(np.count_nonzero(gap)) for gap in gaps)
    # Each run has half the variance of the difference between two.
    variance = sum(float(np.sum(gap**2)) / 2 / len(gap) ** 2 for gap in gaps)
    return Rerun(changed / whole.n_examples, whole, math.sqrt(variance))


def _shared(gap: FloatArray) -> FloatArray:
    return gap[~np.isnan(gap)]
