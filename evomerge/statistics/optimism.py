"""Selection optimism (the winner's curse): how much the best of many measured scores overestimates, and a correction.

Notation: K candidates, n examples of a task, m_k the measured score of candidate k; sigma^2 the variance of m_k about
its true score given the shared examples; tau^2 the variance of true scores; c_K the expected maximum of K
standard normals. Empirical Bayes with a normal prior: Efron (2011), https://doi.org/10.1198/jasa.2011.tm11181
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from evomerge.statistics.clusters import Clusters
from evomerge.statistics.distributions import normal_cdf
from evomerge.statistics.intervals import FloatArray
from evomerge.statistics.matrices import noise, samples


@dataclass(frozen=True)
class Optimism:
    """Reliability of the scores of a search.

    measured, shrunk: (n_candidates,) scores as measured and as expected on new examples. disagreement: fraction of
    examples with different values, averaged over pairs of candidates. noise: sigma^2. spread: tau^2. reliability: tau^2
    / (tau^2 + sigma^2), the fraction of a lead that is real. expected: expected overestimation of the best measured
    score.
    """

    measured: FloatArray
    shrunk: FloatArray
    disagreement: float
    noise: float
    spread: float
    reliability: float
    expected: float


def optimism(values: Mapping[str, FloatArray], *, clusters: Clusters | None = None) -> Optimism:
    """Estimate it from task -> (n_candidates, n_examples) of all candidates of a search, on its search examples.

    sigma^2 is half the mean variance of the paired differences of all pairs, summed over tasks. With one task of zeros
    and ones that is q / (2 n), q the mean pairwise disagreement, except for the squared differences of their means,
    which are not noise. Effects that examples have on all candidates alike cancel, as they do in selecting the best.

    The formula assumes roughly normal true scores. If a search produced many bad candidates, they dominate
    tau^2, and the optimism among the good ones is larger: pass only candidates worth selecting from.
    clusters: duplicate examples, which count once.
    Raises StatisticsError for a matrix of another shape and for examples without a score.
    """
    found = samples(values, clusters)
    measured: FloatArray = np.sum([examples.mean for examples in found.values()], axis=0)
    variance = sum(noise(examples) for examples in found.values())
    total = float(measured.var(ddof=1)) if len(measured) > 1 else 0.0
    spread = max(0.0, total - variance)
    reliability = spread / (spread + variance) if spread + variance > 0 else 1.0
    shrunk = measured.mean() + reliability * (measured - measured.mean())
    expected = expected_maximum(len(measured)) * variance / math.sqrt(variance + spread) if variance > 0 else 0.0
    return Optimism(measured, shrunk, _disagreement(values), variance, spread, reliability, expected)


def expected_maximum(count: int) -> float:
    """Return c_K: the expected maximum of `count` independent standard normal variables, to about 1e-9."""
    grid = np.linspace(-10.0, 10.0, 20001)
    density = count * np.exp(-(grid**2) / 2) / math.sqrt(2 * math.pi) * normal_cdf(grid) ** (count - 1)
    return float(np.trapezoid(grid * density, grid))


def _disagreement(matrices: Mapping[str, FloatArray]) -> float:
    """Return the fraction of (pair of candidates, example) with different values, from the value counts per column."""
    n_candidates = len(next(iter(matrices.values())))
    if n_candidates < 2:
        return 0.0
    same, n_examples = 0, 0
    for matrix in matrices.values():
        ordered = np.sort(matrix, axis=0).T
        starts = np.ones(ordered.shape, dtype=bool)
        starts[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
        runs = np.diff(np.append(np.flatnonzero(starts), ordered.size))
        same += int(np.sum(runs * (runs - 1)))
        n_examples += ordered.shape[0]
    return 1 - same / (n_candidates * (n_candidates - 1) * n_examples)
