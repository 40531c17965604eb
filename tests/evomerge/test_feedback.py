"""What the optimizer is told, and when; losses against the parents worked out by hand."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from evaluators.base import Scores
from evomerge.feedback import MEASURES, Feedback, compared_with, measures_of, record_measures
from evomerge.objective import Floor, Objective
from evomerge.optimizers.base import FloatArray, Measures, Observation, Optimizer, Positions, Proposal, TaskExamples
from evomerge.recipe import Input, Merge, Recipe
from evomerge.study.state import Entry
from evomerge.trial import CANARY, Failure, Outcome, Trial
from search_spaces.base import CoefficientTable

PARENTS = {"base", "parent:a"}
MERGE = Merge(Recipe(Input("base", "b"), (Input("a", "a"),), "linear"), CoefficientTable({}, {}))
WORST = Objective({"one": 1.0, "two": 1.0}, frozenset({"two"}), "chebyshev")


class Listener(Optimizer):
    """Keeps what it is told."""

    max_objectives = None

    def __init__(self, n_objectives: int = 1) -> None:
        super().__init__(1, n_objectives, 0)
        self.heard: list[Observation] = []

    def _ask(self, number: int, pending: Mapping[int, FloatArray]) -> Proposal:
        return Proposal(self.start)

    def _tell(self, observation: Observation) -> None:
        self.heard.append(observation)


def entry(
    objective: Objective, number: int, label: str, one: float, two: float, *, inside: bool = True, split: str = "search"
) -> Entry:
    """A scored trial with two examples per task around the given means."""
    scores = {
        task: Scores(("x", "y"), np.array([mean - 0.1, mean + 0.1])) for task, mean in (("one", one), ("two", two))
    }
    trial = Trial(number, np.array([0.5]) if inside else None, label=label, split=split)
    return Entry(trial, Outcome(number, scores), tuple(objective.losses(scores)), number)


def failed(number: int, label: str) -> Entry:
    trial = Trial(number, np.array([0.5]), label=label)
    return Entry(trial, Outcome(number, failure=Failure("OSError", "disk")), None, number)


def heard(optimizer: Listener) -> dict[int, list[float] | None]:
    return {o.number: None if o.losses is None else o.losses.tolist() for o in optimizer.heard}


def test_a_mean_is_told_at_once_with_its_examples() -> None:
    objective, optimizer = Objective({"one": 3.0, "two": 1.0}, frozenset({"two"})), Listener()
    feedback = Feedback(optimizer, objective, PARENTS)
    assert not feedback.waiting
    feedback.take(entry(objective, 4, "search", 0.5, 2.0))
    assert heard(optimizer) == {4: [pytest.approx(-0.75 * 0.5 + 0.25 * 2.0)]}
    one, two = optimizer.heard[0].examples
    np.testing.assert_allclose(one, [-0.4, -0.6])
    np.testing.assert_allclose(two, [1.9, 2.1])


def test_the_seconds_of_a_whole_trial_are_told_and_those_of_a_rest_are_not() -> None:
    objective, optimizer = Objective({"one": 3.0, "two": 1.0}), Listener()
    feedback = Feedback(optimizer, objective, PARENTS)
    for number, extends, seconds in (
        (1, None, {"merge": 0.5, "evaluate:one": 2.0}),
        (2, 9, {"merge": 0.5}),
        (3, None, {}),
    ):
        scored = entry(objective, number, "search", 0.5, 2.0)
        outcome = scored.outcome.changed(seconds=seconds)
        feedback.take(scored.changed(trial=scored.trial.changed(extends=extends), outcome=outcome))
    assert [o.seconds for o in optimizer.heard] == [2.5, None, None]


def test_what_is_relative_waits_for_all_parents_and_is_told_in_order() -> None:
    optimizer = Listener()
    feedback = Feedback(optimizer, WORST, PARENTS)
    for row in (
        entry(WORST, 1, "start", 0.5, 2.0),
        entry(WORST, 2, "parent:a", 0.8, 3.0, inside=False),
        entry(WORST, 4, "search", 0.9, 1.0),
    ):
        assert feedback.take(row) is None
        assert feedback.waiting
    assert not optimizer.heard
    feedback.take(entry(WORST, 3, "base", 0.4, 1.5))
    assert not feedback.waiting
    # The best parents have 0.8 and, where less is better, 1.5. Gaps: 1 (0.3, 0.5), 3 (0.4, 0), 4 (-0.1, -0.5).
    expected = {1: 0.5 + 0.05 * 0.4, 4: -0.1 - 0.05 * 0.3, 3: 0.4 + 0.05 * 0.2}
    assert list(heard(optimizer)) == list(expected), "number 2 is no point of the cube"
    assert heard(optimizer) == {number: [pytest.approx(loss)] for number, loss in expected.items()}
    assert [o.proposed for o in optimizer.heard] == [False, True, False]
    feedback.take(entry(WORST, 5, "search", 0.8, 1.5))
    assert heard(optimizer)[5] == [pytest.approx(0.0)]


def test_ranks_wait_for_all_baselines_and_leave_failed_ones_out() -> None:
    ranks, optimizer = replace(WORST, kind="borda"), Listener()
    trials = [
        Trial(n, None, MERGE, label) for n, label in enumerate(("base", "parent:a", "uniform", "task_arithmetic:1"))
    ]
    labels = compared_with(ranks, [*trials, Trial(9, np.array([0.5]), label="start")])
    assert labels == {trial.label for trial in trials}
    assert compared_with(WORST, trials) == PARENTS
    feedback = Feedback(optimizer, ranks, labels)
    feedback.take(entry(ranks, 9, "start", 0.6, 2.0))
    feedback.take(entry(ranks, 0, "base", 0.4, 1.0))
    feedback.take(failed(1, "parent:a"))
    feedback.take(entry(ranks, 2, "uniform", 0.6, 3.0))
    assert not optimizer.heard
    feedback.take(entry(ranks, 3, "task_arithmetic:1", 0.8, 2.0))
    assert heard(optimizer)[9] == [pytest.approx(-(1.5 + 1.5) / 6)]
    assert heard(optimizer)[0] == [pytest.approx(-(0.5 + 2.5) / 6)]


def test_failures_are_told_and_a_failed_parent_is_no_measure() -> None:
    optimizer = Listener()
    feedback = Feedback(optimizer, WORST, PARENTS)
    feedback.take(failed(1, "search"))
    feedback.take(failed(2, "base"))
    assert feedback.take(entry(WORST, 3, "parent:a", 0.8, 3.0)) is None
    assert heard(optimizer) == {1: None, 2: None, 3: [pytest.approx(0.0)]}


def test_when_every_parent_failed_it_says_so() -> None:
    optimizer = Listener()
    feedback = Feedback(optimizer, WORST, PARENTS)
    feedback.take(failed(1, "base"))
    problem = feedback.take(failed(2, "parent:a"))
    assert problem is not None
    assert "Every parent failed" in problem
    assert feedback.take(entry(WORST, 3, "search", 0.8, 3.0)) == problem
    assert not optimizer.heard


def test_without_parents_nothing_can_be_relative() -> None:
    assert "none of them is among" in str(Feedback(Listener(), WORST, set()).problem)
    assert Feedback(Listener(), Objective({"one": 1.0}), set()).problem is None


def test_a_share_of_nothing_cannot_be_retained() -> None:
    objective = Objective({"one": 1.0, "two": 1.0}, kind="retention")
    problem = Feedback(Listener(), objective, {"base"}).take(entry(objective, 1, "base", 0.0, 1.0))
    assert "No parent scores anything on task 'one'" in str(problem)


def test_limits_are_told_to_those_who_see_every_task() -> None:
    objective = Objective({"one": 1.0, "two": 1.0}, frozenset({"two"}), "pareto", {"two": Floor(0.25)})
    optimizer = Listener(2)
    feedback = Feedback(optimizer, objective, PARENTS)
    feedback.take(entry(objective, 1, "base", 0.4, 1.5))
    feedback.take(entry(objective, 2, "parent:a", 0.8, 3.0))
    assert optimizer.limits.tolist() == [np.inf, pytest.approx(1.75)]
    assert heard(optimizer)[2] == [pytest.approx(-0.8), pytest.approx(3.0)]


def test_a_broken_limit_costs_more_than_can_be_gained() -> None:
    objective = Objective({"one": 1.0, "two": 1.0}, keep={"one": Floor(0.1)})
    optimizer = Listener()
    feedback = Feedback(optimizer, objective, {"base"})
    feedback.take(entry(objective, 1, "base", 0.8, 0.2))
    feedback.take(entry(objective, 2, "search", 0.7, 0.6))
    feedback.take(entry(objective, 3, "search", 0.6, 0.9))
    assert heard(optimizer)[2] == [pytest.approx(-0.65)]
    assert heard(optimizer)[3] == [pytest.approx(-0.75 + 10 * 0.1)]


def test_the_canary_and_other_splits_teach_nothing() -> None:
    objective, optimizer = Objective({"one": 1.0, "two": 1.0}), Listener()
    feedback = Feedback(optimizer, objective, PARENTS)
    feedback.take(entry(objective, 0, CANARY, 0.5, 0.5))
    feedback.take(entry(objective, 1, "trial:9", 0.5, 0.5, split="select"))
    assert not optimizer.heard


class Events:
    """A study that has events only."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    @property
    def events_since(self) -> list[tuple[str, dict[str, Any]]]:
        return self.events

    def event(self, kind: str, **data: Any) -> None:
        self.events.append((kind, json.loads(json.dumps(data))))


def test_positions_are_read_as_they_were_written_and_may_be_missing() -> None:
    positions = Positions(np.array([0, 1, 0, 1]), np.array([0.0, 0.0, 1.0, 1.0]))
    study = Events()
    record_measures(study, Measures((TaskExamples("one", 5, 1.0),), positions=positions))
    known = measures_of(study)
    assert known is not None
    assert known.positions is not None
    assert known.positions.series.tolist() == [0, 1, 0, 1]
    assert known.positions.depths.tolist() == [0.0, 0.0, 1.0, 1.0]
    assert known.positions.n_series == 2
    del study.events[0][1]["positions"]  # as older versions wrote it
    older = measures_of(study)
    assert older is not None
    assert older.positions is None
    assert study.events[0][0] == MEASURES
