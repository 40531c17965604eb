"""What a number of examples can show, and how many a difference needs: two-sided 5 %, found 4 times out of 5."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from evomerge.statistics.clusters import Clusters
from evomerge.statistics.estimates import Difference, difference
from evomerge.statistics.intervals import Z95, FloatArray

#: z(97.5 %) + z(80 %): what a difference must reach, in standard errors, to be found 4 times out of 5.
POWER = 2.8015852


@dataclass(frozen=True)
class Power:
    """What examples like these can show about two models like these.

    n_examples: the distinct ones. disagreement: share of examples on which the two have different values. variance: of
    the paired difference, per example (n SE^2); with one task of zeros and ones it is the disagreement less the squared
    difference.
    """

    n_examples: int
    disagreement: float
    variance: float

    @property
    def detectable(self) -> float:
        """The difference of scores that these examples show 4 times out of 5."""
        return detectable(self.variance, self.n_examples)

    def needed(self, delta: float) -> int:
        """How many examples, shared out over the tasks as these are, a difference of `delta` needs."""
        return examples_needed(self.variance, delta)


def power(
    a: Mapping[str, FloatArray],
    b: Mapping[str, FloatArray],
    *,
    sizes: Mapping[str, float] | None = None,
    clusters: Clusters | None = None,
) -> Power:
    """Power measured from two models: task -> values in the same example order; sizes, clusters as for `estimate`."""
    whole = difference(a, b, sizes=sizes, clusters=clusters)
    known = {task: ~np.isnan(a[task] - b[task]) for task in a}
    changed = sum(int(np.sum((a[task] != b[task]) & known[task])) for task in a)
    return Power(whole.n_examples, changed / sum(int(each.sum()) for each in known.values()), variance_of(whole))


def variance_of(gap: Difference) -> float:
    """The variance of a paired difference per example; infinite where its interval is."""
    # As in the interval, half a win and half a loss more: models that never differed here may do so elsewhere.
    return gap.n_examples * (gap.half_width / Z95) ** 2


def detectable(disagreement: float, n_examples: int) -> float:
    """The difference found 4 times out of 5 at 5 %, when two models disagree on this share of examples.

    For graded values and several tasks, the variance of the paired difference per example takes its place.
    """
    return POWER * math.sqrt(disagreement / n_examples)


def examples_needed(disagreement: float, delta: float) -> int:
    """How many examples are needed to find a difference of `delta` 4 times out of 5 at 5 %."""
    return math.ceil(POWER**2 * disagreement / delta**2)
