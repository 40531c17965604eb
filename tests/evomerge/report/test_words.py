"""Numbers in words."""

import math

import pytest

from evomerge.objective import Objective
from evomerge.report import words
from evomerge.results.as_json import so_far_to_dict
from evomerge.statistics import Estimate
from tests.evomerge.results.models import scored_models


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (89, "89 s"), (90, "2 min"), (3570, "1 h 00 min"), (11100, "3 h 05 min"), (86400, "24 h 00 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert words.duration(seconds) == text


def test_scores_show_two_digits_of_their_error() -> None:
    assert words.estimate(Estimate(0.7312, 0.015, 100)) == "0.731 [0.702, 0.761]"
    assert words.estimate(Estimate(0.7312, 0.0015, 100)) == "0.7312 [0.7283, 0.7341]"
    assert words.estimate(Estimate(0.5, math.inf, 100)) == "0.5"
    assert words.estimate(Estimate(1.0, 0.0, 100)) == "1"


def test_a_score_comes_after_what_decides_and_a_pareto_search_has_tasks() -> None:
    rows = {"parent:a": {"a": 0.31, "b": 12345.678}}
    tasks = dict.fromkeys(("a", "b"), 1.0)
    (model,) = scored_models(Objective(tasks, kind="pareto"), rows)
    assert words.score(so_far_to_dict(model)) == "a 0.31, b 1.235e+04"
    (model,) = scored_models(Objective(tasks, kind="retention"), rows)
    assert words.score(so_far_to_dict(model)) == "retention 1.0000, score 6173"


def test_an_interval_is_the_one_of_the_values_not_the_normal_one() -> None:
    value = Estimate(1.0, 0.0, 100, bounds=(0.963, 1.0))
    assert words.estimate(value) == "1.0000 [0.9630, 1.0000]"
    assert words.plus_minus(value) == "1.0000 ± 0.0185"
    assert words.plus_minus(Estimate(0.5, math.inf, 1)) == "0.5"


def test_a_column_has_the_same_digits_and_no_negative_zero() -> None:
    values = [Estimate(0.949, 0.0143, 100), Estimate(-0.00001, 0.0038, 100), Estimate(0.5, math.inf, 1)]
    assert words.column(values) == ["0.9490 ± 0.0280", "0.0000 ± 0.0074", "0.5"]
    assert words.plus_minus(Estimate(-0.0001, 0.02, 100)) == "0.000 ± 0.039"


def test_one_is_no_plural() -> None:
    assert [words.count(number, "worker") for number in (0, 1, 2)] == ["0 workers", "1 worker", "2 workers"]


def test_shares_are_ranked_and_sum_to_a_hundred() -> None:
    assert words.shares({"merge": 1.0, "evaluate:a": 3.0}) == "evaluate:a 75 %, merge 25 %"
    assert words.shares({"merge": 0.0}) == "-"


@pytest.mark.parametrize(
    ("better", "scores", "text"),
    [
        (0, [], ""),
        (None, [0.5, 0.4], ""),
        (0, [0.5], "; none of 1 baseline is better"),
        (1, [0.75, 0.5, 0.4], "; parent:0 is better by 0.05"),
        (2, [0.75, 0.74], "; parent:0 is better by 0.05, as is 1 more of 2 baselines"),
        (3, [0.65, 0.6, 0.6, 0.5], "; parent:0 is better, as are 2 more of 4 baselines"),
    ],
)
def test_a_model_beside_the_baselines(better: int | None, scores: list[float], text: str) -> None:
    baselines = [{"label": f"parent:{number}", "score": score} for number, score in enumerate(scores)]
    assert words.beside({"label": "7", "score": 0.7}, baselines, better) == text


def test_numbers_above_the_count_are_explained() -> None:
    assert words.numbers(9, 9) == []
    assert words.numbers(12, 9)[0].startswith("trials are numbered 0 to 11: checks")


@pytest.mark.parametrize(("done", "bar"), [(0, "[----------]"), (50, "[#####-----]"), (120, "[##########]")])
def test_bars(done: int, bar: str) -> None:
    assert words.bar(done, 100, 12) == bar


def test_equal_values_have_no_interval() -> None:
    same = Estimate(64.0, 0.0, 30)
    assert words.estimate(same) == words.plus_minus(same) == "64"
    assert words.column([same, Estimate(60.5, 0.02, 30)]) == ["64", "60.500 ± 0.039"]


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ((0.99, 1.0), ["0.99", "1.00"]),
        ((1.0, 0.99189), ["1.0000", "0.9919"]),
        ((-0.00001, 3.0), ["-1e-05", "3"]),
        ((12.0, 11.0), ["12", "11"]),
    ],
)
def test_numbers_to_compare_have_the_same_decimals(values: tuple[float, ...], shown: list[str]) -> None:
    assert words.same_decimals(*values) == shown
