"""The number that people see: in its own unit where that means something, else from the worst to the best model."""

import math

import numpy as np
import pytest

from evaluators.base import Scores
from evomerge.objective import Objective
from evomerge.objective.score import DisplayScore, are_shares, display_score, task_difference, task_estimate


def scores(**tasks: list[float]) -> dict[str, Scores]:
    return {t: Scores(tuple(f"{t}{i}" for i in range(len(v))), np.array(v)) for t, v in tasks.items()}


MODELS = [scores(math=[0.0, 1.0], text=[9.0, 11.0]), scores(math=[1.0, 1.0], text=[20.0, 40.0])]
MIXED = Objective({"math": 3.0, "text": 1.0}, frozenset({"text"}), "pareto")


def test_shares_keep_their_unit() -> None:
    stick = display_score(Objective({"math": 1.0}, kind="pareto"), [scores(math=[0.0, 1.0])])
    assert not stick.scale
    assert not stick.text
    assert stick.score(scores(math=[0.0, 1.0, 1.0, 1.0])) == 0.75


def test_other_units_are_scaled_over_the_models_compared() -> None:
    stick = display_score(MIXED, MODELS)
    assert stick.scale == {"math": (0.5, 1.0), "text": (30.0, 10.0)}
    assert stick.text == "each task scaled from 0, its worst model, to 1, its best: math 0.5 to 1, text 30 to 10"
    assert stick.score(MODELS[0]) == pytest.approx(0.75 * 0 + 0.25 * 1)
    assert stick.score(MODELS[1]) == pytest.approx(0.75 * 1 + 0.25 * 0)
    assert stick.score(scores(math=[0.75], text=[20.0])) == pytest.approx(0.5)


def test_a_task_in_which_all_are_equal_counts_nothing() -> None:
    stick = display_score(MIXED, [MODELS[0], MODELS[0]])
    assert stick.score(MODELS[0]) == 0.0


def test_without_models_nothing_is_scaled() -> None:
    assert not display_score(MIXED, []).scale


@pytest.mark.parametrize("kind", ["mean", "chebyshev"])
def test_weights_of_a_search_file_fit_the_units(kind: str) -> None:
    objective = Objective(MIXED.weights, MIXED.lower_is_better, kind)  # type: ignore[arg-type]
    assert display_score(objective, MODELS).score(MODELS[0]) == pytest.approx(0.75 * 0.5 - 0.25 * 10)


def test_contributions_sum_to_the_score_and_a_whole_model_adds_no_error() -> None:
    objective = Objective({"size": 1.0, "math": 1.0}, frozenset({"size"}), "pareto", {}, frozenset({"size"}))
    models = [scores(size=[100.0], math=[0.0, 1.0]), scores(size=[200.0], math=[1.0, 1.0])]
    stick = display_score(objective, models)
    parts = stick.contributions(models[0])
    assert list(parts) == ["math"]
    np.testing.assert_allclose(parts["math"], [0.5 - 0.5, 0.5 + 0.5])
    assert parts["math"].mean() == pytest.approx(stick.score(models[0]))
    alone = Objective({"size": 1.0}, frozenset({"size"}), "mean", {}, frozenset({"size"}))
    assert DisplayScore(alone).contributions(models[0])["size"].tolist() == [-100.0]


def test_what_counts_as_a_share() -> None:
    assert are_shares(MIXED, "math", MODELS)
    assert not are_shares(MIXED, "text", [scores(text=[0.5])])
    assert not are_shares(MIXED, "math", [scores(math=[0.0, 1.5])])
    whole = Objective({"size": 1.0}, whole_model=frozenset({"size"}))
    assert not are_shares(whole, "size", [scores(size=[0.5])])


def test_one_value_of_a_whole_model_has_no_standard_error() -> None:
    whole = Objective({"size": 1.0, "math": 1.0}, whole_model=frozenset({"size"}))
    found = task_estimate(whole, "size", scores(size=[4e6])["size"])
    assert (found.mean, found.half_width, found.n_examples) == (4e6, math.inf, 1)
    alone = DisplayScore(Objective({"size": 1.0}, whole_model=frozenset({"size"})))
    assert (alone.estimate(scores(size=[4e6])).mean, alone.estimate(scores(size=[4e6])).half_width) == (4e6, math.inf)
    gap = alone.difference(scores(size=[4e6]), scores(size=[1e6]))
    assert (gap.mean, gap.half_width, gap.shown) == (3e6, math.inf, False)
    assert task_estimate(whole, "math", scores(math=[0.0, 1.0, 1.0])["math"]).half_width < 1


def test_a_task_is_ahead_whichever_way_it_counts() -> None:
    assert task_difference(MIXED, "text", MODELS[0], MODELS[1]).mean == 20.0
    assert task_difference(MIXED, "math", MODELS[0], MODELS[1]).mean == -0.5


def test_what_is_the_same_for_all_examples_has_no_standard_error() -> None:
    """64 tokens at which every text was cut say nothing of other texts; right answers do, and so do two values."""
    objective = Objective({"t": 1.0})

    def known(values: list[float]) -> bool:
        return math.isfinite(task_estimate(objective, "t", scores(t=values)["t"]).half_width)

    assert not known([64.0] * 9)
    assert not known([64.0, math.nan, 64.0])
    assert not known([0.37])
    assert known([64.0] * 8 + [60.0])
    assert known([1.0] * 9)
    assert known([0.0] * 9)
