"""Values of many candidates on the same examples: validation before a comparison, and their noise."""

from collections.abc import Mapping

import numpy as np

from evomerge.statistics.clusters import Clusters, Sample, sample
from evomerge.statistics.estimates import StatisticsError
from evomerge.statistics.intervals import FloatArray


def checked(values: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
    """Return task -> (n_candidates, n_examples), float64, with every candidate scored on every example.

    Raises StatisticsError otherwise: a mean over fewer examples would compare candidates on different questions.
    """
    matrices = {task: np.asarray(matrix, dtype=np.float64) for task, matrix in values.items()}
    if not matrices:
        raise StatisticsError("Comparing candidates needs at least one task; there is none.")
    n_candidates = next(iter(matrices.values())).shape[:1]
    for task, matrix in matrices.items():
        if matrix.ndim != 2 or matrix.shape[:1] != n_candidates or not matrix.size:
            raise StatisticsError(
                f"Task {task!r} needs values (n_candidates, n_examples), the same candidates in every task and at "
                f"least one example; they have shape {matrix.shape}, and the first task has {n_candidates} candidates."
            )
        missing = np.flatnonzero(~np.isfinite(matrix).all(axis=1))
        if len(missing):
            count = int(np.sum(~np.isfinite(matrix[missing[0]])))
            raise StatisticsError(
                f"Candidate {missing[0]} has no finite value for {count} of {matrix.shape[1]} examples of task "
                f"{task!r} ({len(missing)} such candidates in total). Exclude candidates not scored on all examples."
            )
    return matrices


def samples(values: Mapping[str, FloatArray], clusters: Clusters | None) -> dict[str, Sample]:
    """Return task -> distinct examples, values (n_candidates, n_clusters), validated. Raises StatisticsError."""
    return {task: sample(matrix, (clusters or {}).get(task)) for task, matrix in checked(values).items()}


def noise(examples: Sample) -> float:
    """Return the variance of a candidate's mean given the shared examples, from values (n_candidates, n_clusters).

    Half the mean variance of the paired differences of all pairs, / n_examples; in closed form, the mean square of the
    interaction of candidates and examples. 0 for fewer than two of either.
    """
    matrix, shares = examples.values, examples.shares
    n_candidates = len(matrix)
    if n_candidates < 2 or examples.size < 2:
        return 0.0
    rest = matrix - examples.mean[:, None] - matrix.mean(axis=0) + examples.mean.mean()
    second = float((shares**2).sum())
    return float((rest**2).sum(axis=0) @ shares) / (n_candidates - 1) / (1 - second) * second
