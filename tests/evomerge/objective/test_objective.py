"""Signs, weights and missing numbers: the only way from scores to losses."""

import numpy as np
import pytest

from evaluators.base import Scores
from evomerge.objective import Floor, Kind, NonFiniteScore, Objective


def scores(**tasks: list[float]) -> dict[str, Scores]:
    return {
        task: Scores(tuple(f"{task}{i}" for i in range(len(values))), np.array(values))
        for task, values in tasks.items()
    }


def test_a_higher_score_is_a_smaller_loss_and_weights_count() -> None:
    objective = Objective({"math": 3.0, "chat": 1.0})
    losses = objective.losses(scores(math=[1, 0], chat=[1, 1]))
    np.testing.assert_allclose(losses, [-(0.75 * 0.5 + 0.25 * 1.0)])


def test_perplexity_counts_the_other_way() -> None:
    objective = Objective({"text": 1.0}, lower_is_better=frozenset({"text"}))
    assert objective.losses(scores(text=[2.0, 4.0])) == [3.0]
    assert objective.score_of([3.0]) == -3.0


def test_pareto_keeps_the_tasks_apart_in_order() -> None:
    objective = Objective({"b": 5.0, "a": 1.0}, kind="pareto")
    np.testing.assert_array_equal(objective.losses(scores(a=[1.0], b=[0.25])), [-0.25, -1.0])


@pytest.mark.parametrize("values", [[float("nan")], [float("inf"), 1.0], [1.0, float("nan")], []])
def test_an_example_without_a_finite_score_is_a_failure(values: list[float]) -> None:
    with pytest.raises(NonFiniteScore, match="math"):
        Objective({"math": 1.0}).losses(scores(math=values))


@pytest.mark.parametrize("kind", ["mean", "pareto", "chebyshev"])
def test_the_score_of_losses_is_the_weighted_mean_whatever_was_recorded(kind: Kind) -> None:
    objective = Objective({"math": 3.0, "text": 1.0}, frozenset({"text"}), kind)
    measured = scores(math=[1, 0, 1], text=[2.0, 3.0])
    assert objective.score_of(objective.losses(measured)) == pytest.approx(0.75 * 2 / 3 - 0.25 * 2.5)
    assert objective.as_scores(objective.by_task(measured)) == {"math": pytest.approx(2 / 3), "text": 2.5}


def test_weights_must_mean_something() -> None:
    with pytest.raises(ValueError, match="not all 0"):
        Objective({"math": 0.0})


def test_the_parents_are_needed_where_something_is_measured_from_them() -> None:
    assert Objective({"a": 1.0}, keep={"a": Floor(0.25)}).needs_parents
    assert Objective({"a": 1.0}, kind="retention").needs_parents
    assert not Objective({"a": 1.0}).needs_parents


def test_what_is_asked_has_the_sign_that_the_task_would_change_by() -> None:
    keep = {"a": Floor(0.01), "b": Floor(2.0), "c": Floor(0.0), "d": Floor(0.995, "share")}
    objective = Objective(dict.fromkeys(keep, 1.0), frozenset("bc"), keep=keep)
    assert [objective.asked(task) for task in keep] == ["-0.01", "+2", "0", "99.5%"]


@pytest.mark.parametrize("kind", ["pareto", "chebyshev", "retention", "borda"])
def test_other_kinds_record_every_task(kind: Kind) -> None:
    objective = Objective({"b": 5.0, "a": 1.0}, frozenset({"b"}), kind)
    np.testing.assert_array_equal(objective.losses(scores(a=[1.0], b=[0.25])), [0.25, -1.0])
    assert objective.n_objectives == (2 if kind == "pareto" else 1)
