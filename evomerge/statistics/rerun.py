"""Noise of the evaluation itself: one model scored twice on the same examples."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from evomerge.statistics.clusters import Clusters, sample
from evomerge.statistics.estimates import Difference, difference
from evomerge.statistics.intervals import FloatArray


@dataclass(frozen=True)
class Rerun:
    """Changes when one model was scored again.

    changed: fraction of the examples with another value; for seconds that is all of them, and the rest says how much.
    difference: second minus first; a small p means that something shared by all examples has changed (a seed, a
    version, a batch size), which no standard error covers. standard_error: standard error of one run's score due to
    noise that is independent between examples; standard errors of scores and differences already include it.
    """

    changed: float
    difference: Difference
    standard_error: float


def rerun(
    first: Mapping[str, FloatArray], second: Mapping[str, FloatArray], *, clusters: Clusters | None = None
) -> Rerun:
    """Compare two runs of one model: task -> values in the same example order; clusters: duplicate examples.

    Raises StatisticsError for a task without an example scored in both.
    """
    whole = difference(second, first, clusters=clusters)
    changed = n_examples = 0
    variance = 0.0
    for task, values in first.items():
        known = ~np.isnan(second[task] - values)
        gap = (second[task] - values)[known]
        changed += int(np.count_nonzero(gap))
        n_examples += len(gap)
        repeats = None if clusters is None else clusters.get(task)
        distinct = sample(gap, None if repeats is None else repeats[known])
        # Each run has half the variance of the difference between two.
        variance += float(np.sum((distinct.shares * distinct.values) ** 2)) / 2
    return Rerun(changed / n_examples, whole, math.sqrt(variance))
