"""The joint bootstrap: which results of a comparison of many candidates generalize to other examples.

Distinct examples are resampled within each task, together with their duplicates, in the same way for all candidates,
so that shared effects cancel.
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
    """Return the task means of every resample, (n_resamples, n_candidates, n_tasks), with tasks ordered as in `values`.

    values: task -> (n_candidates, n_examples). clusters: duplicate examples. Raises StatisticsError for
    examples without a score.
    """
    found = samples(values, clusters)
    means = [_resampled(examples, n_resamples, (seed, task)) for task, examples in enumerate(found.values())]
    # Equal values may differ in their last bits after a matrix product; they must remain ties.
    return np.stack(means, axis=2).round(12)


def probability_best(means: FloatArray) -> FloatArray:
    """Return each candidate's probability of having the highest score, (n_candidates,); ties are split, the sum is 1.

    means: from `bootstrap_means`. P(same winner) is the value of the selected candidate.
    """
    scores = _scores(means)
    best = scores == scores.max(axis=1, keepdims=True)
    share: FloatArray = (best / best.sum(axis=1, keepdims=True)).mean(axis=0)
    return share


def indifference_set(
    values: Mapping[str, FloatArray], means: FloatArray, *, clusters: Clusters | None = None
) -> NDArray[np.bool_]:
    """Return which candidates may be the truly best one, (n_candidates,): a set that contains it in 95 % of studies.

    A candidate is included if the simultaneous 95 % interval of its distance to the best contains 0: if it is below
    the best measured score by at most the 95 % quantile of max_j e_j - e_k, where e are the errors of the resamples.
    An interval of the difference to the top candidate would ignore that the top was selected for its sampling error.
    Multiple comparisons with the best: Hsu (1984), https://doi.org/10.1214/aos/1176346732
    """
    measured = np.sum([examples.mean for examples in samples(values, clusters).values()], axis=0)
    errors = _scores(means) - measured
    behind = np.quantile(errors.max(axis=1, keepdims=True) - errors, 0.95, axis=0)
    return np.asarray(measured.max() - measured <= behind + 1e-9)


def probability_non_dominated(means: FloatArray) -> FloatArray:
    """Return the probability that each candidate is not dominated, (n_candidates,)."""
    share: FloatArray = np.mean([pareto.non_dominated(-resample) for resample in means], axis=0)
    return share


def _resampled(examples: Sample, n_resamples: int, key: tuple[int, int]) -> FloatArray:
    """Return means (n_resamples, n_candidates) over examples drawn with replacement: counts times values."""
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
