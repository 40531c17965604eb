"""Numbers in words."""

import math
from typing import Any

import pytest

from evomerge.report import words
from evomerge.report.snapshot import SearchScore
from evomerge.statistics import Estimate


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (89, "89 s"), (90, "2 min"), (3570, "1 h 00 min"), (11100, "3 h 05 min"), (86400, "24 h 00 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert words.duration(seconds) == text


def found(mean: float, error: float, **settings: Any) -> SearchScore:
    return SearchScore("", 0, Estimate(mean, error, 100, **settings), {})


def test_scores_show_two_digits_of_their_error() -> None:
    assert words.score(found(0.7312, 0.015)) == "0.731 [0.702, 0.761]"
    assert words.score(found(0.7312, 0.0015)) == "0.7312 [0.7283, 0.7341]"
    assert words.score(found(0.5, math.inf)) == "0.5"
    assert words.score(SearchScore("", 0, None, {"a": 0.31, "b": 12345.678})) == "a 0.31, b 1.235e+04"
    assert words.score(found(1.0, 0.0)) == "1"


def test_an_interval_is_the_one_of_the_values_not_the_normal_one() -> None:
    value = Estimate(1.0, 0.0, 100, bounds=(0.963, 1.0))
    assert words.estimate(value) == "1.0000 [0.9630, 1.0000]"
    assert words.plus_minus(value) == "1.0000 ±0.0185"
    assert words.plus_minus(Estimate(0.5, math.inf, 1)) == "0.5"


def test_a_column_has_the_same_digits_and_no_negative_zero() -> None:
    values = [Estimate(0.949, 0.0143, 100), Estimate(-0.00001, 0.0038, 100), Estimate(0.5, math.inf, 1)]
    assert words.column(values) == ["0.9490 ±0.0280", "0.0000 ±0.0074", "0.5"]
    assert words.plus_minus(Estimate(-0.0001, 0.02, 100)) == "0.000 ±0.039"


def test_one_is_no_plural() -> None:
    assert [words.count(number, "worker") for number in (0, 1, 2)] == ["0 workers", "1 worker", "2 workers"]


def test_shares_are_ranked_and_sum_to_a_hundred() -> None:
    assert words.shares({"merge": 1.0, "evaluate:a": 3.0}) == "evaluate:a 75 %, merge 25 %"
    assert words.shares({"merge": 0.0}) == "-"


@pytest.mark.parametrize(
    ("baselines", "text"),
    [
        ([], ""),
        ([0.5], ", none of 1 baselines is better"),
        ([0.5, 0.7, 0.4], ", 1 of 3 baselines is better"),
        ([0.7, 0.8], ", 2 of 2 baselines are better"),
    ],
)
def test_a_score_beside_the_baselines(baselines: list[float], text: str) -> None:
    assert words.beside(baselines, 0.5) == text


@pytest.mark.parametrize(("done", "bar"), [(0, "[----------]"), (50, "[#####-----]"), (120, "[##########]")])
def test_bars(done: int, bar: str) -> None:
    assert words.bar(done, 100, 12) == bar


def test_equal_values_have_no_interval() -> None:
    same = Estimate(64.0, 0.0, 30)
    assert words.estimate(same) == words.plus_minus(same) == "64"
    assert words.column([same, Estimate(60.5, 0.02, 30)]) == ["64", "60.500 ±0.039"]
