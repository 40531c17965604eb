"""Repeated examples: an example and its copies are one observation, weighted by how often it occurs.

Notation: w_c how many examples cluster c has, W their sum, C the number of clusters. The mean over examples is that of
the clusters' means, weighted by w. Copies add no information, so its standard error comes from the C
observations: their effective number is W^2 / sum w^2 (Kish, 1965), which is C where all occur equally often.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from evaluators.base import content_of
from evomerge.statistics.intervals import FloatArray

IntArray = NDArray[np.int64]
#: Task -> (n_examples,), equal numbers where examples repeat each other; tasks that are not in it have no copies.
Clusters = Mapping[str, IntArray]


@dataclass(frozen=True, eq=False)
class Sample:
    """Distinct examples.

    values: the mean of each one's copies, (..., n_clusters). weights: in proportion to how often each occurs,
    (n_clusters,).
    """

    values: FloatArray
    weights: FloatArray

    @property
    def size(self) -> int:
        """Number of distinct examples."""
        return len(self.weights)

    @property
    def shares(self) -> FloatArray:
        """What each counts in the mean over examples, (n_clusters,), summing to 1."""
        shares: FloatArray = self.weights / self.weights.sum()
        return shares

    @property
    def effective(self) -> float:
        """Effective number of examples: as many distinct ones, once each, would carry the same information."""
        return float(self.weights.sum() ** 2 / (self.weights**2).sum())

    def effective_part(self, chosen: NDArray[np.bool_]) -> float:
        """How many of the effective ones are chosen (n_clusters,)."""
        return self.effective * float(self.weights[chosen].sum()) / float(self.weights.sum())

    @property
    def mean(self) -> FloatArray:
        """The mean over all examples, copies counted, (...)."""
        return np.asarray(np.average(self.values, axis=-1, weights=self.weights))

    @property
    def variance_of_mean(self) -> float:
        """Estimated variance of the mean of values (n_clusters,); infinite for fewer than two."""
        if self.size < 2:
            return math.inf
        second = float((self.shares**2).sum())
        return float(self.shares @ (self.values - self.mean) ** 2) / (1 - second) * second

    @property
    def degrees(self) -> float:
        """Satterthwaite's degrees of freedom of that variance: n - 1 where all examples occur equally often."""
        if self.size < 2:
            return 0.0
        shares = self.shares
        second, third = float((shares**2).sum()), float((shares**3).sum())
        return (1 - second) ** 2 / (second - 2 * third + second**2)


@lru_cache(maxsize=256)
def clusters_of(example_ids: tuple[str, ...]) -> IntArray:
    """Which examples repeat each other, (n_examples,): distinct contents are numbered in the order of appearance."""
    numbers: dict[str, int] = {}
    found = np.array([numbers.setdefault(content_of(each), len(numbers)) for each in example_ids], dtype=np.int64)
    found.flags.writeable = False
    return found


def sample(values: FloatArray, clusters: IntArray | None) -> Sample:
    """Distinct examples of values (..., n_examples)."""
    if clusters is None:
        return Sample(values, np.ones(values.shape[-1]))
    _, member, counts = np.unique(clusters, return_inverse=True, return_counts=True)
    if len(counts) == len(clusters):
        return Sample(values, np.ones(len(clusters)))
    weights = np.ones(len(counts)) if (counts == counts[0]).all() else counts.astype(np.float64)
    ordered = values[..., np.argsort(member, kind="stable")]
    starts = np.cumsum(counts) - counts
    low = np.minimum.reduceat(ordered, starts, axis=-1)
    high = np.maximum.reduceat(ordered, starts, axis=-1)
    means = np.add.reduceat(ordered, starts, axis=-1) / counts
    # Copies that agree have just that value: a mean of equal numbers may differ from them in its last bits.
    return Sample(np.where(low == high, low, means), weights)
