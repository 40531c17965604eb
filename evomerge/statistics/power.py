"""Statistical power: the difference that n examples can detect, and the n that a difference needs (5 %, power 80 %)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from evomerge.statistics.clusters import Clusters
from evomerge.statistics.estimates import Difference, difference
from evomerge.statistics.intervals import Z95, FloatArray

#: z(97.5 %) + z(80 %): a difference of this many standard errors is detected with 80 % power.
POWER = 2.8015852


@dataclass(frozen=True)
class Power:
    """Statistical power of examples like these for two models like these.

    n_examples: number of distinct ones. disagreement: fraction of examples with different values. variance: variance
    of the paired difference, per example (n SE^2); for one task of zeros and ones, the disagreement minus the squared
    difference.
    """

    n_examples: int
    disagreement: float
    variance: float

    @property
    def detectable(self) -> float:
        """Smallest difference of scores that these examples detect with 80 % power."""
        return detectable(self.variance, self.n_examples)

    def needed(self, delta: float) -> int:
        """Return the number of examples, distributed over the tasks like these, that a difference of `delta` needs."""
        return examples_needed(self.variance, delta)


def power(
    a: Mapping[str, FloatArray],
    b: Mapping[str, FloatArray],
    *,
    sizes: Mapping[str, float] | None = None,
    clusters: Clusters | None = None,
) -> Power:
    """Measure power from two models: task -> values in the same example order; sizes, clusters as for `estimate`."""
    whole = difference(a, b, sizes=sizes, clusters=clusters)
    known = {task: ~np.isnan(a[task] - b[task]) for task in a}
    changed = sum(int(np.sum((a[task] != b[task]) & known[task])) for task in a)
    return Power(whole.n_examples, changed / sum(int(each.sum()) for each in known.values()), variance_of(whole))


def variance_of(gap: Difference) -> float:
    """Return the variance of a paired difference per example; infinite if its interval is."""
    # As in the interval, plus half a win and half a loss: models that never differed here may do so elsewhere.
    return gap.n_examples * (gap.half_width / Z95) ** 2


def detectable(disagreement: float, n_examples: int) -> float:
    """Return the difference detected with 80 % power at 5 % if two models disagree on this fraction of examples.

    For graded values and several tasks, pass the variance of the paired difference per example instead.
    """
    return POWER * math.sqrt(disagreement / n_examples)


def examples_needed(disagreement: float, delta: float) -> int:
    """Return the number of examples needed to detect a difference of `delta` with 80 % power at 5 %."""
    return math.ceil(POWER**2 * disagreement / delta**2)
