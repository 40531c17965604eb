"""The joint bootstrap: what of a comparison of many candidates would survive other examples of the same kind.

Distinct examples are resampled within each task, each with its copies, the same resample for all candidates, so that
what they share cancels.
Efron and Tibshirani (1993), https://doi.org/10.1201/9780429246593
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from evomerge.statistics import pareto
from evomerge.statistics.clusters import Clusters, Sample
from evomerge.statistics.intervals import FloatArray
from evomerge.statistics.matrices import samples

N_RESAMPLES = 2000


def bootstrap_means(
    values: Mapping[str, FloatArray],
    *,
    clusters: Clusters | None = None,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> FloatArray:
    """Task means of every resample, (n_resamples, n_candidates, n_tasks); the tasks in the order of `values`.

    values: task -> (n_candidates, n_examples). clusters: which examples repeat each other. Raises StatisticsError for
    examples that were not scored.
    """
    found = samples(values, clusters)
    means = [_resampled(examples, n_resamples, (seed, task)) for task, examples in enumerate(found.values())]
    # Equal values may differ in their last bits after a matrix product; ties must stay ties.
    return np.stack(means, axis=2).round(12)


def probability_best(means: FloatArray) -> FloatArray:
    """How often each candidate has the highest score, (n_candidates,); ties are shared, the sum is 1.

    means: from `bootstrap_means`. P(same winner) is its value at the candidate that was chosen.
    """
    scores = _scores(means)
    best = scores == scores.max(axis=1, keepdims=True)
    share: FloatArray = (best / best.sum(axis=1, keepdims=True)).mean(axis=0)
    return share


def indifference_set(
    values: Mapping[str, FloatArray], means: FloatArray, *, clusters: Clusters | None = None
) -> NDArray[np.bool_]:
    """Which candidates may be the truly best one, (n_candidates,): a set that contains it in 95 % of studies.

    A candidate is in it when the simultaneous 95 % interval of its distance to the best contains 0: when it lies
    behind the best measured score by no more than the 95 % point of max_j e_j - e_k, e the errors of the resamples.
    The interval of its difference to the one on top would forget that the top was chosen for its luck.
    Multiple comparisons with the best: Hsu (1984), https://doi.org/10.1214/aos/1176346732
    """
    measured = np.sum([examples.mean for examples in samples(values, clusters).values()], axis=0)
    errors = _scores(means) - measured
    behind = np.quantile(errors.max(axis=1, keepdims=True) - errors, 0.95, axis=0)
    return np.asarray(measured.max() - measured <= behind + 1e-9)


def probability_non_dominated(means: FloatArray) -> FloatArray:
    """How often no other candidate beats each one on all tasks, (n_candidates,)."""
    share: FloatArray = np.mean([pareto.non_dominated(-resample) for resample in means], axis=0)
    return share


def _resampled(examples: Sample, n_resamples: int, key: tuple[int, int]) -> FloatArray:
    """Means (n_resamples, n_candidates) over examples drawn with replacement: counts times values."""
    n_examples = examples.size
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))
    drawn = rng.integers(n_examples, size=(n_resamples, n_examples)) + n_examples * np.arange(n_resamples)[:, None]
    counts = np.bincount(drawn.ravel(), minlength=n_resamples * n_examples).reshape(n_resamples, n_examples)
    weights = counts * examples.weights
    means: FloatArray = weights @ examples.values.T / weights.sum(axis=1, keepdims=True)
    return means


def _scores(means: FloatArray) -> FloatArray:
    scores: FloatArray = means.sum(axis=2).round(12)
    return scores
