"""How models stand against the parents, by numbers worked out by hand."""

import numpy as np
import pytest

from evaluators.base import Scores
from evomerge.objective import Floor, Kind, NoReference, Objective
from evomerge.objective.reference import Reference
from evomerge.objective.score import DisplayScore


def reference(objective: Objective, *parents: list[float]) -> Reference:
    return Reference.of(objective, map(np.array, parents))


def told(kind: Kind, candidate: list[float], parents: list[float], **settings: object) -> float:
    objective = Objective({"a": 3.0, "b": 1.0}, kind=kind, **settings)  # type: ignore[arg-type]
    (loss,) = reference(objective, parents).told(np.array(candidate))
    return float(loss)


def test_every_task_has_a_best_parent_of_its_own() -> None:
    found = reference(Objective({"a": 1.0, "b": 1.0}, frozenset("b")), [-0.8, 12.0], [-0.5, 10.0])
    assert found.losses is not None
    assert found.losses.tolist() == [-0.8, 10.0]
    assert found.gains(np.array([-0.9, 13.0])) == {"a": pytest.approx(0.1), "b": -3.0}


def test_chebyshev_is_the_worst_weighted_gap() -> None:
    # Gaps 0.2 and 0.4, times 3/4 and 1/4, times the number of tasks: 0.3 and 0.2.
    assert told("chebyshev", [-0.6, -0.1], [-0.8, -0.5]) == pytest.approx(0.3 + 0.05 * 0.25)


def test_of_two_equally_bad_worst_tasks_the_better_rest_wins() -> None:
    assert told("chebyshev", [-0.6, -0.4], [-0.8, -0.5]) < told("chebyshev", [-0.6, -0.3], [-0.8, -0.5])


def test_retention_counts_shares_and_no_weights() -> None:
    # 25 % and 20 % of the parents' scores are lost.
    assert told("retention", [-0.6, -0.4], [-0.8, -0.5]) == pytest.approx(0.25 + 0.05 * 0.225)
    # Perplexities: 12 instead of 10 is a loss of 20 %.
    assert told("retention", [12.0, -0.5], [10.0, -0.5]) == pytest.approx(0.2 + 0.05 * 0.1)


def test_keep_penalizes_what_goes_beyond() -> None:
    kept = told("mean", [-0.9, -0.3], [-0.8, -0.5], keep={"b": Floor(0.2)})
    broken = told("mean", [-0.9, -0.2], [-0.8, -0.5], keep={"b": Floor(0.2)})
    assert kept == pytest.approx(-(0.75 * 0.9 + 0.25 * 0.3))
    assert broken == pytest.approx(-(0.75 * 0.9 + 0.25 * 0.2) + 10 * 0.1)


def test_a_pareto_search_sees_its_losses_as_they_are() -> None:
    found = reference(Objective({"a": 1.0, "b": 1.0}, kind="pareto", keep={"a": Floor(0.0)}), [-0.8, -0.5])
    assert found.told(np.array([-0.1, -0.2])).tolist() == [-0.1, -0.2]


def test_limits_are_the_parents_and_what_may_be_lost() -> None:
    assert reference(Objective({"a": 1.0, "b": 1.0}, keep={"b": Floor(0.25)}), [-0.8, -0.5]).limits.tolist() == [
        np.inf,
        -0.25,
    ]


def test_a_share_is_of_the_best_parents_score_whichever_way_it_counts() -> None:
    # Scores of 0.8, where more is better, and 20, where less is: 98 % is 0.784, and 20.4.
    objective = Objective(
        {"a": 1.0, "b": 1.0}, frozenset("b"), keep={"a": Floor(0.98, "share"), "b": Floor(0.98, "share")}
    )
    np.testing.assert_allclose(reference(objective, [-0.8, 20.0]).limits, [-0.784, 20.4])


@pytest.mark.parametrize("kind", ["mean", "chebyshev", "borda", "pareto"])
def test_what_is_kept_comes_before_what_is_better(kind: Kind) -> None:
    found = reference(Objective({"a": 1.0, "b": 1.0}, kind=kind, keep={"b": Floor(0.01)}), [-0.7, -0.4], [-0.5, -0.8])
    near, kept = np.array([-0.70, -0.7895]), np.array([-0.68, -0.7905])
    assert found.excess(near) == pytest.approx(0.0005)
    assert found.excess(kept) == 0
    assert found.order(kept) < found.order(near)
    better = np.array([-0.69, -0.79 + 1e-12])  # at the limit, but for rounding
    assert found.order(better) < found.order(kept)


def test_excess_is_counted_in_the_units_of_the_score() -> None:
    objective = Objective(
        {"a": 1.0, "size": 1.0}, frozenset({"size"}), "pareto", dict.fromkeys(("a", "size"), Floor(0))
    )
    display = DisplayScore(objective, {"a": (0.2, 0.7), "size": (900.0, 400.0)})
    found = Reference.of(objective, [np.array([-0.7, 400.0])], display)
    assert found.excess(np.array([-0.6, 500.0])) == pytest.approx(0.1 / 0.5 + 100 / 500)
    # The mean of 0.8 of the range of each task.
    assert found.order(np.array([-0.6, 500.0]))[1] == pytest.approx(-0.8)


def test_equal_losses_that_differ_in_their_last_bits_are_equal() -> None:
    found = reference(Objective({"a": 1.0, "b": 1.0, "c": 1.0}), [0.0, 0.0, 0.0])
    assert found.order(np.array([-0.1, -0.2, -0.3])) == found.order(np.array([-0.3, -0.2, -0.1]))


@pytest.mark.parametrize("kind", ["mean", "chebyshev", "retention", "borda", "pareto"])
def test_without_parents_the_mean_decides_and_nothing_can_be_told(kind: Kind) -> None:
    objective = Objective({"a": 1.0, "b": 1.0}, kind=kind, keep={"b": Floor(0.01)})
    found = reference(objective)
    assert "Every parent failed" in str(found.problem)
    losses = np.array([-0.6, -0.2])
    assert (found.order(losses), found.decisive(losses), found.gains(losses)) == ((0.0, -0.4), {}, {})
    if kind != "pareto":
        with pytest.raises(NoReference, match="Every parent failed"):
            found.told(losses)
    assert reference(Objective({"a": 1.0})).problem is None


def test_nothing_can_be_retained_of_zero() -> None:
    objective = Objective({"a": 1.0, "b": 1.0}, kind="retention")
    found = reference(objective, [-0.8, 0.0])
    with pytest.raises(NoReference, match="task 'b'"):
        found.told(np.array([-0.6, -0.4]))
    assert found.decisive(np.array([-0.6, -0.4])) == {}
    assert found.order(np.array([-0.6, -0.4])) == (0.0, -0.5)


def test_the_worst_task_as_people_read_it() -> None:
    retention = reference(Objective({"a": 1.0, "b": 1.0}, kind="retention"), [-0.8, -0.5])
    assert retention.decisive(np.array([-0.6, -0.5])) == {"retention": pytest.approx(0.75)}
    assert retention.decisive(np.array([-0.8, -0.5])) == {"retention": 1.0}
    chebyshev = reference(Objective({"a": 1.0, "b": 1.0}, kind="chebyshev"), [-0.8, -0.5])
    assert chebyshev.decisive(np.array([-0.6, -0.5])) == {"chebyshev": pytest.approx(-0.2)}
    assert reference(Objective({"a": 1.0}), [-0.8]).decisive(np.array([-0.6])) == {}


def answers(*values: float) -> dict[str, Scores]:
    return {"a": Scores(tuple(f"{n:016x}" for n in range(len(values))), np.array(values))}


def test_flips_are_counted_against_the_best_parent_whatever_the_means_are() -> None:
    objective = Objective({"a": 1.0}, keep={"a": Floor(0.25, "flips")})
    found = Reference.among(objective, [answers(1, 1, 0, 0), answers(0, 1, 0, 0)])
    better, loses_two = answers(0, 1, 1, 1), answers(0, 0, 1, 1)
    assert [found.constrained(scores).tolist() for scores in (better, loses_two)] == [[0.25], [0.5]]
    orders = [found.order(objective.by_task(scores), found.constrained(scores)) for scores in (better, loses_two)]
    assert orders == [(0.0, -0.75), (0.25, -0.5)]
    assert found.violated(found.constrained(loses_two)) == ("a",)
    assert found.told(objective.by_task(loses_two), found.constrained(loses_two)).tolist() == [-0.5 + 10 * 0.25]
    assert np.isinf(found.search_limits).all()


def test_without_a_parent_no_flips_are_limited() -> None:
    objective = Objective({"a": 1.0}, keep={"a": Floor(0.0, "flips")})
    assert np.isinf(Reference.among(objective, []).limits).all()
