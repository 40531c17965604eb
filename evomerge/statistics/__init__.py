"""Statistics of scores: confidence intervals, paired comparisons, selection optimism, bootstrap, multiplicity, power.

Values are per example and per task, as returned by `DisplayScore.contributions`: larger is better, and
the sum of the task means is the score. n is the number of distinct examples scored on all sides; NaN marks an example
without a score. Duplicates of an example count once wherever errors are estimated (`clusters_of`).
"""

from evomerge.statistics.bootstrap import (
    bootstrap_means,
    indifference_set,
    probability_best,
    probability_non_dominated,
)
from evomerge.statistics.claims import holm, p_text
from evomerge.statistics.clusters import Clusters, clusters_of, sample
from evomerge.statistics.estimates import Difference, Estimate, StatisticsError, difference, estimate, standard_error
from evomerge.statistics.fronts import Interval, hypervolume_interval
from evomerge.statistics.intervals import Z95, FloatArray
from evomerge.statistics.optimism import Optimism, expected_maximum, optimism
from evomerge.statistics.power import Power, detectable, examples_needed, power, variance_of
from evomerge.statistics.rerun import Rerun, rerun

__all__ = [
    "Z95",
    "Clusters",
    "Difference",
    "Estimate",
    "FloatArray",
    "Interval",
    "Optimism",
    "Power",
    "Rerun",
    "StatisticsError",
    "bootstrap_means",
    "clusters_of",
    "detectable",
    "difference",
    "estimate",
    "examples_needed",
    "expected_maximum",
    "holm",
    "hypervolume_interval",
    "indifference_set",
    "optimism",
    "p_text",
    "power",
    "probability_best",
    "probability_non_dominated",
    "rerun",
    "sample",
    "standard_error",
    "variance_of",
]
