"""A task with one constant per model beside a task of zeros and ones: only the examples have a sampling error."""

import math

import numpy as np
import pytest
from scipy import stats

from evaluators.base import Scores
from evomerge.objective import Objective
from evomerge.objective.reference import Reference
from evomerge.objective.score import DisplayScore, task_difference, task_estimate
from evomerge.results.scored import ScoredModel
from evomerge.results.verdict import verdict
from evomerge.statistics import Z95, estimate, power
from evomerge.trial import Trial

N = 145
BESIDE = Objective({"count": 1.0, "mine": 1.0}, whole_model=frozenset({"mine"}))
PER_EXAMPLE = Objective({"count": 1.0, "mine": 1.0})
RIGHT = np.ones(N)


def scored(count: np.ndarray, mine: float, n_mine: int = 1) -> dict[str, Scores]:
    columns = {"count": count, "mine": np.full(n_mine, mine)}
    return {t: Scores(tuple(f"{t} {i}" for i in range(len(v))), v) for t, v in columns.items()}


def right(n: int) -> np.ndarray:
    return (np.arange(N) < n).astype(float)


@pytest.mark.parametrize("n_right", [0, 100, N])
@pytest.mark.parametrize(("objective", "n_mine"), [(BESIDE, 1), (PER_EXAMPLE, N)])
@pytest.mark.parametrize("mine", [11.8, 0.37, -3.0])
def test_a_constant_moves_an_interval_and_leaves_its_width(
    objective: Objective, n_mine: int, mine: float, n_right: int
) -> None:
    count = right(n_right)
    found = DisplayScore(objective).estimate(scored(count, mine, n_mine))
    # Pseudo-examples are shared out over the tasks of zeros and ones, of which there is one.
    alone = estimate({"count": count})
    assert found.mean == pytest.approx((count.mean() + mine) / 2)
    assert found.interval == pytest.approx(tuple((end + mine) / 2 for end in alone.interval))


def test_the_floor_is_in_the_unit_of_its_task_whatever_the_other_weighs() -> None:
    heavy = Objective({"mine": 9.0, "count": 1.0}, whole_model=frozenset({"mine"}))
    assert DisplayScore(heavy).estimate(scored(RIGHT, 11.8)).half_width == pytest.approx(
        estimate({"count": RIGHT}).half_width / 10
    )
    two = Objective({"a": 1.0, "b": 3.0})
    wrong = {t: Scores(tuple(f"{t}{i}" for i in range(N)), v) for t, v in (("a", 0 * RIGHT), ("b", right(100)))}
    expected = estimate({"a": 0 * RIGHT, "b": 0.75 * right(100)}, sizes={"a": 0.25, "b": 0.75})
    assert DisplayScore(two).estimate(wrong).interval == pytest.approx(expected.interval)
    fewer = Objective({"a": 1.0}, lower_is_better=frozenset({"a"}))
    low, high = DisplayScore(fewer).estimate(wrong).interval
    assert (low, high) == pytest.approx((-estimate({"a": 0 * RIGHT}).interval[1], 0)), "no error can be negative"


def test_scaled_zeros_and_ones_stay_such() -> None:
    pareto = Objective({"count": 1.0, "mine": 1.0}, kind="pareto", whole_model=frozenset({"mine"}))
    stick = DisplayScore(pareto, {"count": (0.2, 0.7), "mine": (9.0, 11.0)})
    for n_right in (0, 100, N):
        scores = scored(right(n_right), 10.0)
        low, high = estimate({"count": right(n_right)}).interval
        found = stick.estimate(scores)
        assert found.mean == pytest.approx(stick.score(scores))
        assert found.interval == pytest.approx(((low - 0.2) + 0.25, (high - 0.2) + 0.25))


@pytest.mark.parametrize("count", [RIGHT, 0 * RIGHT, right(100)])
@pytest.mark.parametrize(("objective", "n_mine"), [(BESIDE, 1), (PER_EXAMPLE, N)])
def test_a_lead_by_a_constant_alone_is_not_shown_by_examples(
    objective: Objective, n_mine: int, count: np.ndarray
) -> None:
    a, b = scored(count, 11.83716, n_mine), scored(count, 11.8, n_mine)
    gap, alone = DisplayScore(objective).difference(a, b), task_difference(objective, "count", a, b)
    assert gap.mean == pytest.approx(0.01858)
    assert gap.half_width == pytest.approx(alone.half_width / 2)
    assert gap.half_width == pytest.approx(0.00671, abs=1e-5)
    assert (gap.p, gap.shown, gap.by_constants) == (1.0, False, True)
    assert not DisplayScore(objective).difference(a, a).by_constants


@pytest.mark.parametrize("wins", [1, 5, 12, 40])
@pytest.mark.parametrize("lead", [-0.2, 0.02, 0.3])
def test_p_and_interval_agree_where_a_constant_is_added(wins: int, lead: float) -> None:
    a, b = scored(right(100 + wins), 11.8 + lead), scored(right(100), 11.8)
    gap, alone = DisplayScore(BESIDE).difference(a, b), task_difference(BESIDE, "count", a, b)
    assert gap.half_width == pytest.approx(alone.half_width / 2)
    assert gap.p == pytest.approx(2 * stats.norm.sf(Z95 * abs(gap.mean) / gap.half_width))
    assert not gap.by_constants


def test_equal_constants_leave_mcnemars_test() -> None:
    a, b = scored(right(110), 11.8), scored(right(100), 11.8)
    assert (
        DisplayScore(BESIDE).difference(a, b).p
        == task_difference(BESIDE, "count", a, b).p
        == pytest.approx(2 * 0.5**10)
    )


def test_a_constant_by_itself_has_neither_interval_nor_p() -> None:
    a, b = scored(RIGHT, 11.9, N), scored(RIGHT, 11.8, N)
    gap = task_difference(PER_EXAMPLE, "mine", a, b)
    assert (gap.p, gap.has_interval) == (1.0, False)
    alone = DisplayScore(Objective({"mine": 1.0}))
    assert not alone.estimate(a).has_interval
    assert not task_estimate(PER_EXAMPLE, "mine", a["mine"]).has_interval
    assert (alone.difference(a, b).p, alone.difference(a, b).has_interval) == (1.0, False)


def test_one_example_is_no_constant() -> None:
    a, b = scored(RIGHT, 11.9, 1), scored(RIGHT, 11.8, 1)
    gap = DisplayScore(PER_EXAMPLE).difference(a, b)
    assert (gap.p, gap.half_width, gap.by_constants) == (1.0, math.inf, False)


def test_power_counts_examples_and_no_constant() -> None:
    stick = DisplayScore(BESIDE)
    a, b = (stick.sampled(scored(right(n), mine)) for n, mine in ((110, 11.9), (100, 11.8)))
    assert power(a, b, sizes=stick.sizes).disagreement == pytest.approx(10 / N)
    same = power(a, a, sizes=stick.sizes)
    assert math.sqrt(same.variance / N) == pytest.approx(0.5 / (N + 1), rel=1e-2)


def test_the_verdict_says_that_a_lead_is_that_of_a_constant() -> None:
    stick, a, b = DisplayScore(BESIDE), scored(RIGHT, 11.83716), scored(RIGHT, 11.8)
    reference = Reference.of(BESIDE, [BESIDE.by_task(b)])
    winner = ScoredModel("trial:1", 1, "candidate", Trial(1, None), a, reference)
    parent = ScoredModel("parent:x", 0, "parent", Trial(0, None), b, reference)
    said = verdict((winner, parent), {"parent:x": stick.difference(a, b)}, (), shares=("count",))
    assert said == (
        "No merge was shown to be better than the best-scoring parent, parent:x, on held-out examples "
        "(+0.0186 ± 0.0067 in the weighted mean of all tasks, each in its own unit; all of it comes "
        "from mine, one value per model without sampling error). Keep parent:x."
    )
