"""Signs, weights and missing numbers: the only way from scores to losses."""

import numpy as np
import pytest

from evaluators.base import Scores
from evomerge.objective import NonFiniteScore, Objective


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
    assert objective.score({"text": 3.0}) == -3.0


def test_pareto_keeps_the_tasks_apart_in_order() -> None:
    objective = Objective({"b": 5.0, "a": 1.0}, kind="pareto")
    np.testing.assert_array_equal(objective.losses(scores(a=[1.0], b=[0.25])), [-0.25, -1.0])


@pytest.mark.parametrize("values", [[float("nan")], [float("inf"), 1.0], [1.0, float("nan")], []])
def test_an_example_without_a_finite_score_is_a_failure(values: list[float]) -> None:
    with pytest.raises(NonFiniteScore, match="math"):
        Objective({"math": 1.0}).losses(scores(math=values))


def test_contributions_sum_to_the_score() -> None:
    objective = Objective({"math": 3.0, "text": 1.0}, lower_is_better=frozenset({"text"}))
    measured = scores(math=[1, 0, 1], text=[2.0, 3.0])
    parts = objective.contributions(measured)
    total = sum(column.mean() for column in parts.values())
    assert total == pytest.approx(objective.score(objective.means(measured)))
    assert -total == pytest.approx(objective.losses(measured)[0])


def test_weights_must_mean_something() -> None:
    with pytest.raises(ValueError, match="not all 0"):
        Objective({"math": 0.0})


@pytest.mark.parametrize("mean", [0.0, 1.0, -2.0])
def test_recorded_losses_tell_in_which_tasks_less_is_better(mean: float) -> None:
    objective = Objective({"a": 1.0, "b": 1.0}, frozenset({"b"}), kind="pareto")
    given = scores(a=[mean], b=[mean])
    assert Objective.lower_of(objective.losses(given).tolist(), objective.means(given)) == {"b"}
