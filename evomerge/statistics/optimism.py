"""The winner's curse: the best of many measured scores is too good, by how much, and what to believe instead.

Notation: K candidates, n examples of a task, m_k the measured score of candidate k; sigma^2 the variance of m_k about
its true score given the examples that all share; tau^2 the variance of true scores; c_K the expected maximum of K
standard normals. Empirical Bayes with a normal prior: Efron (2011), https://doi.org/10.1198/jasa.2011.tm11181
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import special

from evomerge.statistics.clusters import Clusters
from evomerge.statistics.intervals import FloatArray
from evomerge.statistics.matrices import noise, samples


@dataclass(frozen=True)
class Optimism:
    """How far the scores of a search can be believed.

    measured, shrunk: (n_candidates,) scores as they are and as they are likely to repeat. disagreement: mean over pairs
    of candidates of the share of examples on which they differ. noise: sigma^2. spread: tau^2. reliability: tau^2 /
    (tau^2 + sigma^2), how much of a lead is real. expected: by how much the best measured score is likely too high.
    """

    measured: FloatArray
    shrunk: FloatArray
    disagreement: float
    noise: float
    spread: float
    reliability: float
    expected: float


def optimism(values: Mapping[str, FloatArray], *, clusters: Clusters | None = None) -> Optimism:
    """From task -> (n_candidates, n_examples) of all candidates of a search, on the examples it searched on.

    sigma^2 is half the mean variance of the paired differences of all pairs, summed over tasks. With one task of zeros
    and ones that is q / (2 n), q the mean pairwise disagreement, but for the squared differences of their means, which
    are no noise. What is harder or easier for all candidates alike cancels, as it does in the choice of the best.

    The formula holds for candidates whose true scores are roughly normal. Where a search left many bad ones behind,
    tau^2 is theirs and the optimism among the good ones is larger than this: give it those worth choosing from.
    clusters: which examples repeat each other; they count once.
    Raises StatisticsError for a matrix of another shape and for examples that were not scored.
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
    """c_K: the expected maximum of `count` independent standard normal variables, to about 1e-9."""
    grid = np.linspace(-10.0, 10.0, 20001)
    density = count * np.exp(-(grid**2) / 2) / math.sqrt(2 * math.pi) * special.ndtr(grid) ** (count - 1)
    return float(np.trapezoid(grid * density, grid))


def _disagreement(matrices: Mapping[str, FloatArray]) -> float:
    """Share of (pair of candidates, example) with different values, from how often each value occurs in a column."""
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
