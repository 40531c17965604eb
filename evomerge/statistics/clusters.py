"""Duplicate examples: an example and its duplicates are one observation, weighted by its frequency.

Notation: cluster c contains w_c examples, W is their sum, C the number of clusters. The mean over examples is the
w-weighted mean of the clusters' means. Duplicates add no information, so its standard error is based on the C
observations, with the effective number W^2 / sum w^2 (Kish, 1965), which is C if all frequencies are equal.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from evaluators.base import content_of
from evomerge.statistics.intervals import FloatArray

IntArray = NDArray[np.int64]
#: Task -> (n_examples,), equal numbers for duplicates; a task that is missing has none.
Clusters = Mapping[str, IntArray]


@dataclass(frozen=True, eq=False)
class Sample:
    """Distinct examples.

    values: mean over the duplicates of each, (..., n_clusters). weights: proportional to their frequencies,
    (n_clusters,).
    """

    values: FloatArray
    weights: FloatArray

    @property
    def size(self) -> int:
        """Number of distinct examples."""
        return len(self.weights)

    @cached_property
    def shares(self) -> FloatArray:
        """Weight of each in the mean over examples, (n_clusters,), summing to 1."""
        shares: FloatArray = self.weights / self.weights.sum()
        return shares

    @property
    def effective(self) -> float:
        """Effective sample size: the number of equally frequent distinct examples with the same information."""
        return float(self.weights.sum() ** 2 / (self.weights**2).sum())

    def effective_part(self, chosen: NDArray[np.bool_]) -> float:
        """Return how much of the effective sample size is selected by `chosen`, (n_clusters,)."""
        return self.effective * float(self.weights[chosen].sum()) / float(self.weights.sum())

    @cached_property
    def mean(self) -> FloatArray:
        """Mean over all examples including duplicates, (...)."""
        return np.asarray(np.average(self.values, axis=-1, weights=self.weights))

    @cached_property
    def variance_of_mean(self) -> float:
        """Estimated variance of the mean of values (n_clusters,); infinite for fewer than two."""
        if self.size < 2:
            return math.inf
        second = float((self.shares**2).sum())
        return float(self.shares @ (self.values - self.mean) ** 2) / (1 - second) * second

    @property
    def degrees(self) -> float:
        """Satterthwaite's degrees of freedom of that variance: n - 1 for equal frequencies."""
        if self.size < 2:
            return 0.0
        shares = self.shares
        second, third = float((shares**2).sum()), float((shares**3).sum())
        return (1 - second) ** 2 / (second - 2 * third + second**2)


@lru_cache(maxsize=256)
def clusters_of(example_ids: tuple[str, ...]) -> IntArray:
    """Return cluster numbers, (n_examples,), equal for duplicates, in order of first appearance."""
    numbers: dict[str, int] = {}
    found = np.array([numbers.setdefault(content_of(each), len(numbers)) for each in example_ids], dtype=np.int64)
    found.flags.writeable = False
    return found


def sample(values: FloatArray, clusters: IntArray | None) -> Sample:
    """Return the distinct examples of values (..., n_examples)."""
    if clusters is None or np.array_equal(clusters, np.arange(len(clusters))):  # as `clusters_of` gives distinct ones
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
    # Duplicates with equal values keep that value exactly: a mean of equal numbers may differ in its last bits.
    return Sample(np.where(low == high, low, means), weights)
