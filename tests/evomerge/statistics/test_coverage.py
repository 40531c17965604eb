"""What the numbers promise, counted over hundreds of simulated studies with a known truth."""

import numpy as np
import pytest

from evomerge.statistics import (
    bootstrap_means,
    difference,
    estimate,
    expected_maximum,
    holm,
    indifference_set,
    optimism,
)
from tests.evomerge.statistics.studies import Simulated, contributions, scores, simulated

N_STUDIES = 300
REPORT = (50, 120, 300)


def honest(covered: float) -> bool:
    return 0.93 <= covered <= 0.97


@pytest.mark.slow
def test_intervals_of_scores_and_of_paired_differences() -> None:
    """Score, task means and difference to a rival, on the report split of every study."""
    whole, single, paired = [], [], []
    for seed in range(N_STUDIES):
        # From hard tasks to easy ones, means from about .05 to .97.
        study = simulated(seed, 4, len(REPORT), mean=(-3.5, -1, 0.5, 2, 4)[seed % 5])
        answers, true = study.answers(REPORT), study.true_means
        for candidate in range(4):
            mine = contributions(answers, candidate)
            low, high = estimate(mine).interval
            whole.append(low <= true[candidate].mean() <= high)
            for column, (task, matrix) in enumerate(answers.items()):
                low, high = estimate({task: matrix[candidate]}).interval
                single.append(low <= true[candidate, column] <= high)
            rival = (candidate + 1) % 4
            low, high = difference(mine, contributions(answers, rival)).interval
            paired.append(low <= true[candidate].mean() - true[rival].mean() <= high)
    assert honest(np.mean(whole)), np.mean(whole)
    assert honest(np.mean(single)), np.mean(single)
    assert honest(np.mean(paired)), np.mean(paired)


@pytest.mark.parametrize(("size", "mean"), [(20, 3.0), (50, 3.5), (50, -3.5), (100, 4.0)])
def test_intervals_of_few_examples_near_0_and_1(size: int, mean: float) -> None:
    """Where the normal interval covers 70 to 90 %."""
    covered, normal = [], []
    for seed in range(40):
        study = simulated(seed, 100, 1, mean=mean)
        for values, true in zip(study.answers((size,))["task0"], study.true_means[:, 0], strict=True):
            found = estimate({"t": values})
            low, high = found.interval
            covered.append(low <= true <= high)
            normal.append(abs(found.mean - true) <= 1.96 * found.standard_error)
    assert 0.93 <= np.mean(covered) <= 0.98, np.mean(covered)
    assert np.mean(normal) < 0.92


def test_graded_values_of_few_examples() -> None:
    rng = np.random.Generator(np.random.Philox(key=1))
    covered = []
    for _ in range(1500):
        a, b = rng.normal(0.3, 1, 8), rng.normal(0, 1, 12)
        low, high = estimate({"a": a, "b": b}).interval
        covered.append(low <= 0.3 <= high)
        low, high = difference({"t": a}, {"t": b[:8]}).interval
        covered.append(low <= 0.3 <= high)
    assert honest(np.mean(covered)), np.mean(covered)


def test_equal_candidates_are_rarely_called_better() -> None:
    """The whole way: best of 40 on search, best of 8 on select, against the better of three parents on report."""
    claimed = claimed_of_tasks = 0
    for seed in range(N_STUDIES):
        study = simulated(seed, 43, 3, spread=0.0)
        searched = scores(study.answers((60, 150, 300)))[:40]
        finalists = np.argsort(-searched)[:8]
        winner = finalists[scores(study.answers((30, 60, 120)))[finalists].argmax()]
        report = study.answers(REPORT)
        parent = 40 + int(scores(report)[40:].argmax())
        claimed += difference(contributions(report, winner), contributions(report, parent)).shown
        gaps = {task: difference({task: m[winner]}, {task: m[41]}) for task, m in report.items()}
        adjusted = holm({task: gap.p for task, gap in gaps.items()})
        claimed_of_tasks += any(adjusted[task] < 0.05 and gaps[task].mean > 0 for task in gaps)
    assert claimed <= 0.05 * N_STUDIES
    assert claimed_of_tasks <= 0.05 * N_STUDIES


def test_what_a_small_task_takes_back_is_not_claimed_for_a_large_one() -> None:
    """Better on 300 examples of one task, as much worse on 50 of another: no better in the mean of the tasks."""
    sides = []
    for seed in range(N_STUDIES):
        ability = np.array([[0.9, -0.1], [-0.1, 0.9]])
        answers = Simulated(ability, np.random.Generator(np.random.Philox(key=seed))).answers((300, 50))
        gap = difference(contributions(answers, 0), contributions(answers, 1))
        sides.append((gap.p < 0.05, gap.shown))
    either, shown = np.mean(sides, axis=0)
    assert either <= 0.06
    assert shown <= 0.05


@pytest.mark.parametrize(
    ("n_candidates", "spread"),
    [(50, 0.0), (200, 0.25), *(pytest.param(*others, marks=pytest.mark.slow) for others in ((200, 0.0), (50, 0.25)))],
)
def test_the_expected_optimism_is_what_the_best_loses(n_candidates: int, spread: float) -> None:
    lost, expected, shrunk = [], [], []
    for seed in range(N_STUDIES):
        study = simulated(seed, n_candidates, 2, spread=spread)
        answers = study.answers((100, 200))
        found = optimism({task: matrix / 2 for task, matrix in answers.items()})
        best = int(found.measured.argmax())
        true = study.true_means.mean(axis=1)
        # What all candidates share (easy examples, or hard ones) is no optimism about the best one.
        common = found.measured.mean() - true.mean()
        lost.append(found.measured[best] - true[best] - common)
        shrunk.append(found.shrunk[best] - true[best] - common)
        expected.append(found.expected)
    assert np.mean(expected) == pytest.approx(np.mean(lost), rel=0.1)
    assert abs(np.mean(shrunk)) < 0.15 * np.mean(lost)
    assert np.mean(expected) > 0.5 * expected_maximum(n_candidates) * 0.01


def test_the_indifference_set_holds_the_best_candidate() -> None:
    """Also among candidates that are nearly equal, where the best measured one is only the luckiest."""
    held, sizes = [], []
    for seed in range(150):
        study = simulated(seed, 30, 2, spread=(0.03, 0.3, 1.0)[seed % 3])
        answers = study.answers((100, 200))
        means = bootstrap_means(answers, n_resamples=400, seed=seed)
        members = indifference_set(answers, means)
        held.append(members[study.true_means.mean(axis=1).argmax()])
        sizes.append(members.mean())
    assert np.mean(held) >= 0.93
    assert np.mean(sizes[2::3]) < 0.35  # and it says something where candidates differ
