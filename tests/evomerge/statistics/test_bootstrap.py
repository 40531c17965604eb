"""The joint bootstrap against closed forms."""

import numpy as np
import pytest

from evomerge.statistics import (
    StatisticsError,
    bootstrap_means,
    difference,
    estimate,
    indifference_set,
    probability_best,
    probability_non_dominated,
)
from tests.evomerge.statistics.studies import contributions, simulated

STUDY = simulated(5, 6, 2, spread=0.6)
ANSWERS = STUDY.answers((120, 250))


def test_means_scatter_as_standard_errors_say_and_candidates_together() -> None:
    values = {task: matrix / 2 for task, matrix in ANSWERS.items()}
    means = bootstrap_means(values)
    assert means.shape == (2000, 6, 2)
    scores = means.sum(axis=2)
    for candidate in range(6):
        mine = contributions(ANSWERS, candidate)
        assert scores[:, candidate].std() == pytest.approx(estimate(mine).standard_error, rel=0.06)
    paired = difference(contributions(ANSWERS, 0), contributions(ANSWERS, 1)).standard_error
    assert (scores[:, 0] - scores[:, 1]).std() == pytest.approx(paired, rel=0.06)
    assert scores.mean(axis=0) == pytest.approx([estimate(contributions(ANSWERS, k)).mean for k in range(6)], abs=0.003)


def test_tasks_are_resampled_apart() -> None:
    rows = np.random.default_rng(0).random((3, 100))
    means = bootstrap_means({"a": rows, "b": rows})
    assert abs(np.corrcoef(means[:, 0, 0], means[:, 0, 1])[0, 1]) < 0.1


def test_same_seed_same_resamples() -> None:
    assert np.array_equal(bootstrap_means(ANSWERS, n_resamples=20), bootstrap_means(ANSWERS, n_resamples=20))
    assert not np.array_equal(
        bootstrap_means(ANSWERS, n_resamples=20), bootstrap_means(ANSWERS, n_resamples=20, seed=1)
    )


def test_ties_share_the_chance_of_being_best() -> None:
    rows = np.random.default_rng(0).random((1, 90)) / 3
    means = bootstrap_means({"a": np.repeat(rows, 4, axis=0), "b": np.repeat(rows, 4, axis=0)}, n_resamples=50)
    assert probability_best(means) == pytest.approx([0.25] * 4)
    assert probability_non_dominated(means) == pytest.approx([1.0] * 4)


def test_chances_of_two_candidates() -> None:
    """P(best) is that of a normal difference; a point behind in one task and ahead in the other stays on the front."""
    rng = np.random.default_rng(3)
    a = rng.normal(0.5, 1, 400)
    b = a + rng.normal(-0.05, 1, 400)
    means = bootstrap_means({"t": np.stack([a, b])})
    z = (a - b).mean() / ((a - b).std() / 20)
    assert probability_best(means)[0] == pytest.approx(0.5 * (1 + np.tanh(0.7988 * z)), abs=0.04)
    both = bootstrap_means({"t": np.stack([a, a - 9]), "u": np.stack([a, a + 9])}, n_resamples=50)
    assert probability_non_dominated(both).tolist() == [1.0, 1.0]
    behind = bootstrap_means({"t": np.stack([a, a - 9]), "u": np.stack([a, a - 9])}, n_resamples=50)
    assert probability_non_dominated(behind).tolist() == [1.0, 0.0]


def test_who_may_be_the_best() -> None:
    """Two that are the same, one that lost 5 examples and won 3, one that is far behind."""
    best = np.repeat([1.0, 0.0], [180, 120])
    near, far = best.copy(), np.repeat([1.0, 0.0], [120, 180])
    near[:5], near[-3:] = 0, 1
    rows = np.stack([best, best, near, far])
    assert indifference_set({"t": rows}, bootstrap_means({"t": rows})).tolist() == [True, True, True, False]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "at least one task"),
        ({"t": np.ones(3)}, r"'t' needs values .*\(3,\)"),
        ({"t": np.ones((2, 3)), "u": np.ones((3, 3))}, r"'u' needs .*\(3, 3\)"),
        ({"t": np.array([[1.0, 0.0], [np.nan, 1.0]])}, r"Candidate 1 has no finite value for 1 of 2 .* 't' \(1 such"),
    ],
)
def test_what_cannot_be_compared_is_refused(values: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(StatisticsError, match=message):
        bootstrap_means(values)
