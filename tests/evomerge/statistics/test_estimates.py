"""Formulas against SciPy, against closed forms and against simulation."""

import numpy as np
import pytest
from scipy import stats

from evomerge.statistics import (
    Estimate,
    StatisticsError,
    detectable,
    difference,
    estimate,
    examples_needed,
    standard_error,
)
from evomerge.statistics.power import POWER


def test_standard_error_is_that_of_the_mean() -> None:
    values = np.array([1.0, 0.0, 1.0, 1.0, 0.0])
    assert standard_error(values) == pytest.approx(stats.sem(values))
    assert standard_error(values[:1]) == np.inf


def test_an_estimate_over_tasks_adds_variances() -> None:
    a, b = np.array([1.0, 0.0, 1.0]), np.array([0.5, 0.5, 1.0, np.nan])
    whole = estimate({"a": a, "b": b})
    assert whole.mean == pytest.approx(a.mean() + b[:3].mean())
    assert whole.standard_error == pytest.approx(np.hypot(stats.sem(a), stats.sem(b[:3])))
    assert whole.n_examples == 6


def test_a_paired_difference_is_sharper_than_two_independent_means() -> None:
    rng = np.random.default_rng(0)
    a = (rng.random(400) < 0.6).astype(float)
    b = np.where(rng.random(400) < 0.05, 1 - a, a)
    paired = difference({"t": a}, {"t": b})
    assert paired.mean == pytest.approx(a.mean() - b.mean())
    assert paired.standard_error == pytest.approx(stats.sem(a - b))
    assert paired.standard_error < 0.5 * np.hypot(stats.sem(a), stats.sem(b))


def test_examples_that_one_side_lacks_are_left_out_of_both() -> None:
    paired = difference({"t": np.array([1.0, 1.0, np.nan])}, {"t": np.array([0.0, 1.0, 1.0])})
    assert (paired.mean, paired.n_examples) == (0.5, 2)


def test_zeros_and_ones_are_judged_by_exact_mcnemar() -> None:
    a = np.array([1.0] * 9 + [0.0] * 2 + [1.0] * 30)
    b = np.array([0.0] * 9 + [1.0] * 2 + [1.0] * 30)
    assert difference({"t": a}, {"t": b}).p == pytest.approx(stats.binomtest(2, 11, 0.5).pvalue)
    assert difference({"t": a}, {"t": a}).p == 1.0


def test_graded_values_are_judged_by_student() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(0.1, 1, 500), rng.normal(0, 1, 500)
    assert difference({"t": a}, {"t": b}).p == pytest.approx(stats.ttest_rel(a, b).pvalue)


def test_worse_is_never_shown_to_be_better() -> None:
    zeros, ones = np.zeros(50), np.ones(50)
    assert not difference({"t": zeros}, {"t": ones}).shown
    assert difference({"t": ones}, {"t": zeros}).shown


def test_intervals_cover_and_equal_models_are_rarely_called_better() -> None:
    rng = np.random.default_rng(2)
    covered = claimed = 0
    for _ in range(600):
        quality = rng.random(300)
        a, b = ((rng.random(300) < quality).astype(float) for _ in range(2))
        gap = difference({"t": a}, {"t": b})
        low, high = gap.interval
        covered += low <= 0 <= high
        claimed += gap.shown
    assert 0.93 <= covered / 600 <= 0.97
    assert claimed / 600 <= 0.05


def test_power_is_what_it_says() -> None:
    assert pytest.approx(stats.norm.ppf(0.975) + stats.norm.ppf(0.8), abs=1e-6) == POWER
    n = examples_needed(0.2, 0.03)
    assert n == pytest.approx(7.85 * 0.2 / 0.03**2, rel=1e-3)
    assert detectable(0.2, n) == pytest.approx(0.03, rel=1e-3)


def test_zeros_and_ones_have_wilsons_interval() -> None:
    values = np.array([1.0] * 47 + [0.0] * 3)
    wilson = stats.binomtest(47, 50).proportion_ci(method="wilson")
    assert estimate({"t": values}).interval == pytest.approx((wilson.low, wilson.high))
    low, high = estimate({"t": -values / 4}).interval
    assert (low, high) == pytest.approx((-wilson.high / 4, -wilson.low / 4))


def test_all_wrong_and_never_different_are_not_certain() -> None:
    wrong = np.zeros(50)
    assert estimate({"t": wrong}).interval[1] == pytest.approx(
        stats.binomtest(0, 50).proportion_ci(method="wilson").high
    )
    assert estimate({"t": wrong}, sizes={"t": 0.5}).interval[1] == pytest.approx(estimate({"t": wrong}).interval[1] / 2)
    right = np.ones(50) / 2
    same = difference({"t": right}, {"t": right})
    assert same.half_width == pytest.approx(0.5 * 1.96 / 51, rel=1e-3)
    assert (same.mean, same.p, same.shown) == (0, 1, False)


def test_a_task_without_a_shared_example_is_refused() -> None:
    a, b = np.array([1.0, np.nan]), np.array([np.nan, 1.0])
    with pytest.raises(StatisticsError, match="'t' has no scored example among 2"):
        difference({"t": a}, {"t": b})


def test_equal_values_and_one_value_have_no_interval() -> None:
    rng = np.random.default_rng(0)
    some = rng.random(30)
    assert estimate({"t": some}).has_interval
    assert estimate({"t": np.array([1.0] * 9)}).has_interval, "nine right answers may have been luck"
    assert not Estimate(0.1, 1e-18, 30).has_interval, "0.1 thirty times, but for rounding"
    assert not Estimate(64.0, 0.0, 30).has_interval
    assert not Estimate(64.0, np.inf, 1).has_interval
    assert not difference({"t": some}, {"t": some.copy()}).has_interval


@pytest.mark.parametrize("n_tasks", [1, 2, 3])
@pytest.mark.parametrize("right", [0.0, 1.0])
def test_an_interval_holds_its_mean_and_ends_at_0_without_rounding_error(n_tasks: int, right: float) -> None:
    for n in range(2, 60):
        found = estimate({f"t{k}": np.full(n, right) / n_tasks for k in range(n_tasks)}, sizes=None)
        low, high = found.interval
        assert low <= found.mean <= high, n
        assert low == 0 or abs(low) > 1e-9, n
