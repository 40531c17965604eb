"""Borda counts worked out by hand, and the slope between them."""

import numpy as np
import pytest

from evomerge.objective import Objective
from evomerge.objective.borda import borda
from evomerge.objective.reference import Reference

ONE = np.ones(1)


def beaten(score: float, *others: float) -> float:
    """Number of models that a score beats on one task; half for ties."""
    return len(others) * borda(np.array([-score]), -np.array(others)[:, None], ONE)


def test_at_the_score_of_a_model_it_is_the_exact_count() -> None:
    models = (0.2, 0.5, 0.5, 0.9)
    counts = [sum(score > other for other in models) + sum(score == other for other in models) / 2 for score in models]
    assert counts == [0.5, 2.0, 2.0, 3.5]
    assert [beaten(score, *models) for score in models] == pytest.approx(counts)


def test_it_is_interpolated_between_neighbors() -> None:
    assert beaten(0.3, 0.2, 0.6) == pytest.approx(0.75)
    assert beaten(0.4, 0.2, 0.6) == pytest.approx(1.0)


def test_beyond_the_ends_it_rises_to_all_and_falls_to_none() -> None:
    """The mean gap is 0.2: half of the last half is gained within half of it."""
    assert beaten(0.7, 0.2, 0.4, 0.6) == pytest.approx(2.75)
    assert beaten(0.1, 0.2, 0.4, 0.6) == pytest.approx(0.25)
    assert beaten(1e9, 0.2, 0.4, 0.6) == pytest.approx(3.0)
    assert beaten(-1e9, 0.2, 0.4, 0.6) == pytest.approx(0.0, abs=1e-6)


def test_it_rises_everywhere_without_a_jump() -> None:
    scores = np.linspace(-1.0, 2.0, 601)
    counts = np.array([beaten(score, 0.1, 0.1, 0.35, 0.7) for score in scores])
    assert (np.diff(counts) > 0).all()
    assert np.diff(counts).max() < 0.1


def test_models_that_all_score_the_same_are_beaten_tied_or_not() -> None:
    assert [beaten(score, 0.3, 0.3, 0.3) for score in (0.2, 0.3, 0.4)] == pytest.approx([0.0, 1.5, 3.0])
    assert [beaten(score, 0.3) for score in (0.2, 0.3, 0.4)] == pytest.approx([0.0, 0.5, 1.0])


def test_the_last_bits_of_equal_scores_make_no_difference() -> None:
    assert beaten(0.1 + 0.2, 0.3, 0.3) == 1.0


def test_tasks_are_weighed_whatever_their_units() -> None:
    models = np.array([[-0.2, 90.0], [-0.6, 10.0]])
    shares = np.array([0.75, 0.25])
    assert borda(np.array([-0.6, 90.0]), models, shares) == pytest.approx(0.75 * 0.75 + 0.25 * 0.25)
    scaled = models * [1.0, 1000.0]
    assert borda(np.array([-0.5, 20e3]), scaled, shares) == pytest.approx(borda(np.array([-0.5, 20.0]), models, shares))


def test_one_task_is_ranked_as_by_its_mean() -> None:
    scores = np.random.default_rng(0).uniform(size=20)
    counts = [beaten(score, 0.3, 0.5, 0.5, 0.55) for score in scores]
    assert np.argsort(counts).tolist() == np.argsort(scores).tolist()


def test_ranks_are_counted_among_parents_and_baselines_in_any_order() -> None:
    objective = Objective({"a": 1.0, "b": 1.0}, kind="borda")
    parents, others = [np.array([-0.9, -0.1]), np.array([-0.1, -0.9])], [np.array([-0.5, -0.5])]
    found = Reference.of(objective, parents, ranked=[*parents, *others])
    assert found.told(np.array([-0.5, -0.5])).tolist() == [pytest.approx(-0.5)]
    assert found.decisive(np.array([-0.5, -0.9])) == {"borda": pytest.approx((1.5 + 2.5) / 6)}
    assert found.worst(np.array([-0.5, -0.9])) is None
    turned = Reference.of(objective, parents[::-1], ranked=[*others, *parents[::-1]])
    losses = np.array([-0.43, -0.71])
    assert turned.told(losses).tolist() == found.told(losses).tolist()


def test_nothing_can_be_told_where_every_parent_and_baseline_failed() -> None:
    assert "Every parent failed" in str(Reference.of(Objective({"a": 1.0}, kind="borda"), []).problem)
