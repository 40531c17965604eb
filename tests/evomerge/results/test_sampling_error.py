"""What scoring one model twice says: in numbers, task by task in its own unit, and of no task that did not change."""

from pathlib import Path

import numpy as np
import pytest

from evaluators.base import Scores
from evomerge.objective import Objective
from evomerge.objective.spec import record_objective
from evomerge.report.html.document import document
from evomerge.report.html.page import page
from evomerge.report.html.sources import PageSources
from evomerge.run import Run
from evomerge.study import Study
from evomerge.trial import Outcome
from tests.evomerge.report.fronts import trial, values

OBJECTIVE = Objective(
    {"math": 1.0, "seconds": 1.0, "size": 1.0},
    frozenset({"seconds", "size"}),
    kind="pareto",
    whole_model=frozenset({"size"}),
)
SECONDS = np.array([1.0, 2.0, 3.0, 4.0])
NOISE = np.array([0.01, -0.02, 0.03, 0.02])


def scores(right: int, seconds: np.ndarray, size: float) -> dict[str, Scores]:
    found = {"math": values(right), "seconds": seconds, "size": np.array([size])}
    return {task: Scores(tuple(f"{task}{n}" for n in range(len(column))), column) for task, column in found.items()}


def scored_twice(folder: Path, first: dict[str, Scores], again: dict[str, Scores]) -> Study:
    tasks = dict.fromkeys(OBJECTIVE.weights, "synthetic")
    study = Study.create(folder, {"tasks": tasks, "objective": "pareto", "optimizer": "random", "seed": 0}, {})
    record_objective(study, OBJECTIVE)
    told = [("base", "search", scores(4, SECONDS, 768)), ("base", "select", first), ("rerun:base", "select", again)]
    for number, (label, split, found) in enumerate(told):
        study.ask(trial(number, label, split))
        study.tell(Outcome(number, found), [float(loss) for loss in OBJECTIVE.losses(found)])
    study.close()
    return Study.read(folder)


def test_seconds_change_every_time_and_it_is_said_by_how_much(tmp_path: Path) -> None:
    study = scored_twice(tmp_path / "s", scores(4, SECONDS, 768), scores(4, SECONDS + NOISE, 768))
    data = document(Run.of(study), PageSources())
    (row,) = data["luck"]["reruns"]
    (task,) = row["tasks"]
    assert (task["task"], task["changed"], task["n_examples"]) == ("seconds", 1.0, 4)
    assert task["mean"] == pytest.approx(NOISE.mean())
    assert task["noise"] == pytest.approx(np.sqrt(np.sum(NOISE**2) / 2) / 4)
    said = "100 % of the 4 examples of seconds got a different value, and its mean changed by +0.010 ["
    assert f"base was scored twice on select: {said}" in page(data)


def test_another_size_is_no_change_of_other_examples(tmp_path: Path) -> None:
    """In the score the size moves the examples of the first other task; there, all of them would have changed."""
    study = scored_twice(tmp_path / "s", scores(4, SECONDS, 768), scores(4, SECONDS, 766))
    data = document(Run.of(study), PageSources())
    (row,) = data["luck"]["reruns"]
    assert [(task["task"], task["mean"], task["interval"]) for task in row["tasks"]] == [("size", -2.0, None)]
    assert "100 % of the 1 example of size got a different value, and its mean changed by -2." in page(data)


def test_nothing_changed(tmp_path: Path) -> None:
    study = scored_twice(tmp_path / "s", scores(4, SECONDS, 768), scores(4, SECONDS, 768))
    data = document(Run.of(study), PageSources())
    assert data["luck"]["reruns"] == [{"label": "base", "tasks": []}]
    assert "base was scored twice on select, with identical values for all examples." in page(data)
