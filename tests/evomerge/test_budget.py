"""Budgets of time and the time that is left, on a clock that the tests turn."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from evaluators.base import Scores
from evomerge.budget import Budget, seconds_left, stage_seconds
from evomerge.execution.serial import SerialExecutor
from evomerge.loop import search
from evomerge.objective import Objective
from evomerge.optimizers.random import RandomSearch
from evomerge.results.cost import Scorings, scorings, selection_seconds
from evomerge.results.select import select
from evomerge.study import Study
from evomerge.trial import Outcome, Trial
from tests.evomerge.results.tables import baseline

EXAMPLES = {"search": 100, "select": 40, "report": 60}
OBJECTIVE = Objective({"one": 1.0})
LABELS = ("base", "parent:a", "parent:b", "uniform", "task_arithmetic:0.4", "task_arithmetic:0.6", "task_arithmetic:1")


class Clock:
    """A clock that stands still unless a candidate is scored."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class TimedBench:
    """Takes `merge` seconds, and one more for every example."""

    def __init__(self, clock: Clock, merge: float, slower: Callable[[int], float] = lambda number: 1.0) -> None:
        self._clock, self._merge, self._slower = clock, merge, slower

    def run(self, trial: Trial) -> Outcome:
        n = EXAMPLES[trial.split]
        seconds = {"merge": self._merge, "evaluate:one": n * self._slower(trial.number)}
        self._clock.now += sum(seconds.values())
        ids = tuple(f"{trial.split} {i}" for i in range(n))
        values = np.arange(n) < (50 if trial.x is None else 100 * float(trial.x[0]))
        return Outcome(trial.number, {"one": Scores(ids, values.astype(float))}, seconds=seconds)


@pytest.mark.parametrize("limit", ["hours", "until"])
def test_a_budget_of_time_covers_the_selection(tmp_path: Path, limit: str) -> None:
    clock, hours = Clock(), 2.0
    study = Study.create(tmp_path / "s", {}, {}, clock=clock)
    end = datetime.fromtimestamp(clock.now + hours * 3600, tz=UTC)
    budget = Budget(hours=hours) if limit == "hours" else Budget(until=end, now=clock)
    executor, optimizer = SerialExecutor(lambda: TimedBench(clock, 5.0)), RandomSearch(1, 1, 0)
    began, planned = clock.now, [baseline(label) for label in LABELS]

    def reserve() -> float:
        stages, searched = stage_seconds(study), sum(e.trial.merge is None for e in study.told)
        count = scorings(OBJECTIVE, LABELS, searched, recommends=False)
        return sum(stages.values()) + selection_seconds(count, stages, {"one": EXAMPLES}, 1)

    assert search(study, optimizer, executor, OBJECTIVE, planned, budget, reserve=reserve).kind == "done"
    assert select(study, executor, OBJECTIVE, None).kind == "done"
    spent = clock.now - began
    assert spent <= hours * 3600, "the selection is within the budget"
    assert spent > 0.8 * hours * 3600, "and little of it is left over"


def test_without_a_reserve_the_whole_time_is_searched(tmp_path: Path) -> None:
    clock = Clock()
    study = Study.create(tmp_path / "s", {}, {}, clock=clock)
    executor = SerialExecutor(lambda: TimedBench(clock, 5.0))
    search(study, RandomSearch(1, 1, 0), executor, OBJECTIVE, [], Budget(hours=1))
    assert len(study.told) == 35  # of 105 seconds each; the last one begins before the hour is over


@pytest.mark.parametrize(
    ("kind", "labels", "searched", "recommends", "expected"),
    [
        ("mean", LABELS, None, False, Scorings(0, 8 + 4 + 2 + 1, 1 + 4 + 1)),
        ("mean", LABELS, None, True, Scorings(1, 9 + 4 + 2 + 1, 1 + 4 + 1)),
        ("mean", LABELS, 3, False, Scorings(0, 3 + 4 + 2 + 1, 1 + 4 + 1)),
        ("pareto", LABELS, None, False, Scorings(0, 16 + 4 + 2 + 1, 16 + 4 + 1)),
        ("mean", ("base", "parent:a"), None, False, Scorings(0, 8 + 2 + 1, 1 + 2)),
    ],
)
def test_how_many_models_the_selection_scores(
    kind: str, labels: tuple[str, ...], searched: int | None, recommends: bool, expected: Scorings
) -> None:
    objective = Objective({"a": 1.0, "b": 1.0}, kind=kind)  # type: ignore[arg-type]
    assert scorings(objective, labels, searched, recommends=recommends) == expected


def test_the_selection_takes_whole_rounds_of_the_workers() -> None:
    stages = {"merge": 2.0, "evaluate:one": 10.0, "evaluate:two": 1.0}
    examples = {"one": EXAMPLES, "two": {"search": 1, "select": 1, "report": 1}}
    one = {"search": 13.0, "select": 2 + 4 + 1, "report": 2 + 6 + 1}
    expected = 1 * one["search"] + 3 * one["select"] + 2 * one["report"]
    assert selection_seconds(Scorings(1, 9, 6), stages, examples, 4) == pytest.approx(1.1 * expected)


def test_the_time_left_follows_the_recent_pace(tmp_path: Path) -> None:
    clock = Clock()
    study = Study.create(tmp_path / "s", {}, {}, clock=clock)
    assert seconds_left(study, Budget(trials=60)) is None
    slow_start = TimedBench(clock, 0.0, lambda number: 10.0 if number < 20 else 1.0)
    search(study, RandomSearch(1, 1, 0), SerialExecutor(lambda: slow_start), OBJECTIVE, [], Budget(trials=50))
    assert seconds_left(study, Budget(trials=60)) == pytest.approx(10 * 100.0)
    assert seconds_left(study, Budget(trials=60), lambda: 700.0) == pytest.approx(10 * 100.0 + 700.0)
    hours = (study.active_seconds + 500.0) / 3600
    assert seconds_left(study, Budget(trials=60, hours=hours), lambda: 700.0) == pytest.approx(500.0)
    # The search ends by itself: after 4 more evaluations, or not before its budget.
    assert seconds_left(study, Budget(trials=60), lambda: 700.0, needed=4.0) == pytest.approx(4 * 100.0 + 700.0)
    assert seconds_left(study, Budget(trials=60), needed=40.0) == pytest.approx(10 * 100.0)
    assert seconds_left(study, Budget(hours=100.0), needed=4.0) == pytest.approx(4 * 100.0)
