"""Importance of groups: what a score was made of is found again, and noise stays within what chance allows."""

import numpy as np
import pytest

from evomerge.results.importance import build_features, importance
from search_spaces.base import CoefficientTable

GROUPS = {"first": ("a",), "second": ("b",), "third": ("c",), "still": ("d",)}
INPUTS = ("math", "chat")


def tables(n: int = 120, seed: int = 1) -> list[CoefficientTable]:
    """n points with two models; the last group never moves."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(n):
        weight = rng.random((4, 2))
        weight[3] = 0.5
        found.append(CoefficientTable(GROUPS, {"weight": weight}))
    return found


def column(points: list[CoefficientTable], group: int, model: int) -> np.ndarray:
    return np.array([point.values["weight"][group, model] for point in points])


def test_a_group_is_as_important_as_the_score_moved_with_it() -> None:
    points = tables()
    bowl = -((column(points, 1, 0) - 0.5) ** 2)
    score = 0.3 * column(points, 0, 1) + bowl + 0.001 * np.random.default_rng(2).normal(size=len(points))
    found = importance(points, {"score": score}, INPUTS)
    target = found["targets"]["score"]
    assert (found["by"], found["groups"]) == ("group", ["first", "second", "third"])
    assert target["explained"] > 0.99
    assert target["value"][:2] == pytest.approx([np.std(0.3 * column(points, 0, 1)), np.std(bowl)], rel=0.03)
    assert target["value"][0] > target["low"][0] > target["chance"][0]
    assert target["value"][1] > target["chance"][1]
    assert target["value"][2] < 0.001


def test_noise_is_not_told_from_chance() -> None:
    above, explained = 0, []
    for seed in range(10):
        points = tables(60, seed)
        noise = np.random.default_rng(100 + seed).normal(size=len(points))
        target = importance(points, {"score": noise}, INPUTS)["targets"]["score"]
        above += sum(value > chance for value, chance in zip(target["value"], target["chance"], strict=True))
        explained.append(target["explained"])
    assert above <= 5, "of 30 groups, 1 in 20 is expected above"
    assert max(explained) < 0.2


def test_what_is_left_out_is_predicted_from_the_others() -> None:
    """`explained` against fits that never saw the point."""
    points = tables(40)
    rng = np.random.default_rng(3)
    score = column(points, 0, 0) + 0.2 * rng.normal(size=len(points))
    explained = importance(points, {"score": score}, INPUTS)["targets"]["score"]["explained"]
    features = build_features(points, INPUTS).values
    best = -np.inf
    for penalty in np.logspace(-3, 4, 22):
        errors = []
        for row in range(len(points)):
            others = np.arange(len(points)) != row
            mean = score[others].mean()
            centre = features[others].mean(axis=0)
            seen = features[others] - centre
            slopes = np.linalg.solve(seen.T @ seen + penalty * np.eye(seen.shape[1]), seen.T @ (score[others] - mean))
            errors.append(score[row] - mean - (features[row] - centre) @ slopes)
        best = max(best, 1 - np.mean(np.square(errors)) / np.var(score))
    assert explained == pytest.approx(best, abs=0.01)


def test_few_points_and_scores_that_do_not_move_give_a_reason() -> None:
    assert "5 points" in importance(tables(5), {"score": np.zeros(5)}, INPUTS)["why"]
    points = tables(30)
    assert importance(points, {"score": np.ones(30)}, INPUTS)["targets"]["score"] == {
        "why": "All points have the same score."
    }
    still = [points[0]] * 30
    assert importance(still, {"score": np.arange(30.0)}, INPUTS)["why"] == "All points have the same coefficients."


def test_the_same_study_gives_the_same_numbers() -> None:
    points = tables(50)
    score = column(points, 2, 1)
    assert importance(points, {"score": score}, INPUTS) == importance(points, {"score": score}, INPUTS)


def test_coefficients_of_one_group_stand_for_themselves() -> None:
    """One bar for the group would say nothing; what is the same for all models has the parameter's name."""
    rng = np.random.default_rng(5)
    points = []
    for _ in range(60):
        values = {"weight": np.vstack([rng.random((1, 2)), [[0.5, 0.5]]]), "density": np.array([[rng.random()], [1.0]])}
        points.append(CoefficientTable({"all": ("a",), "still": ("b",)}, values))
    chat, density = column(points, 0, 1), np.array([point.values["density"][0, 0] for point in points])
    found = importance(points, {"score": 0.3 * chat - 0.1 * density}, INPUTS)
    assert (found["by"], found["groups"]) == ("coefficient", ["weight[math]", "weight[chat]", "density"])
    wanted = [0, 0.3 * np.std(chat), 0.1 * np.std(density)]
    assert found["targets"]["score"]["value"] == pytest.approx(wanted, rel=0.03, abs=1e-3)
