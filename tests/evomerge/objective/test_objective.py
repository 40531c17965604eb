"""Signs, weights and missing numbers: the only way from scores to losses."""

import numpy as np
import pytest

from evaluators.base import Scores
from evomerge.objective import Kind, NonFiniteScore, NoReference, Objective, Share


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


def against(kind: Kind, candidate: list[float], parents: list[float], **settings: object) -> float:
    objective = Objective({"a": 3.0, "b": 1.0}, kind=kind, **settings)  # type: ignore[arg-type]
    (loss,) = objective.against(np.array(candidate), np.array(parents))
    return float(loss)


def test_chebyshev_is_the_worst_weighted_gap() -> None:
    # Gaps 0.2 and 0.4, times 3/4 and 1/4, times the number of tasks: 0.3 and 0.2.
    assert against("chebyshev", [-0.6, -0.1], [-0.8, -0.5]) == pytest.approx(0.3 + 0.05 * 0.25)


def test_of_two_equally_bad_worst_tasks_the_better_rest_wins() -> None:
    assert against("chebyshev", [-0.6, -0.4], [-0.8, -0.5]) < against("chebyshev", [-0.6, -0.3], [-0.8, -0.5])


def test_retention_counts_shares_and_no_weights() -> None:
    # 25 % and 20 % of the parents' scores are lost.
    assert against("retention", [-0.6, -0.4], [-0.8, -0.5]) == pytest.approx(0.25 + 0.05 * 0.225)
    # Perplexities: 12 instead of 10 is a loss of 20 %.
    assert against("retention", [12.0, -0.5], [10.0, -0.5]) == pytest.approx(0.2 + 0.05 * 0.1)


def test_nothing_can_be_retained_of_zero() -> None:
    with pytest.raises(NoReference, match="task 'b'"):
        against("retention", [-0.6, -0.4], [-0.8, 0.0])


def test_limits_are_the_parents_and_what_may_be_lost() -> None:
    objective = Objective({"a": 1.0, "b": 1.0}, keep={"b": 0.25})
    assert objective.limits(np.array([-0.8, -0.5])).tolist() == [np.inf, -0.25]
    assert objective.needs_parents
    assert not Objective({"a": 1.0}).needs_parents


def test_a_share_is_of_the_best_parents_score_whichever_way_it_counts() -> None:
    # Scores of 0.8, where more is better, and 20, where less is: 98 % is 0.784, and 20.4.
    objective = Objective({"a": 1.0, "b": 1.0}, frozenset("b"), keep={"a": Share(0.98), "b": Share(0.98)})
    np.testing.assert_allclose(objective.limits(np.array([-0.8, 20.0])), [-0.784, 20.4])


def test_what_is_asked_has_the_sign_that_the_task_would_change_by() -> None:
    keep = {"a": 0.01, "b": 2.0, "c": 0.0, "d": Share(0.995)}
    objective = Objective(dict.fromkeys(keep, 1.0), frozenset("bc"), keep=keep)
    assert [objective.asked(task) for task in keep] == ["-0.01", "+2", "0", "99.5%"]


def test_keep_penalises_what_goes_beyond() -> None:
    kept = against("mean", [-0.9, -0.3], [-0.8, -0.5], keep={"b": 0.2})
    broken = against("mean", [-0.9, -0.2], [-0.8, -0.5], keep={"b": 0.2})
    assert kept == pytest.approx(-(0.75 * 0.9 + 0.25 * 0.3))
    assert broken == pytest.approx(-(0.75 * 0.9 + 0.25 * 0.2) + 10 * 0.1)


def test_a_pareto_search_sees_its_losses_as_they_are() -> None:
    objective = Objective({"a": 1.0, "b": 1.0}, kind="pareto", keep={"a": 0.0})
    assert objective.against(np.array([-0.1, -0.2]), np.array([-0.8, -0.5])).tolist() == [-0.1, -0.2]


@pytest.mark.parametrize("kind", ["pareto", "chebyshev", "retention"])
def test_other_kinds_record_every_task(kind: Kind) -> None:
    objective = Objective({"b": 5.0, "a": 1.0}, frozenset({"b"}), kind)
    np.testing.assert_array_equal(objective.losses(scores(a=[1.0], b=[0.25])), [0.25, -1.0])
    assert objective.n_objectives == (2 if kind == "pareto" else 1)
