"""Searches on smooth scores: constraints, selection and report are about the accuracy."""

import numpy as np
import pytest
from rich.console import Console

from evomerge.commands.pareto import show_front
from evomerge.report.html.run_facts import study_data
from evomerge.run import Run
from tests.conftest import TinyModels
from tests.evomerge.searches import run_here
from tests.evomerge.test_gradient_search import write_search


@pytest.fixture(scope="module")
def run(tiny: TinyModels, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A search on bits per byte of two tasks, one of which has a floor."""
    folder = tmp_path_factory.mktemp("smooth")
    tasks = {
        name: {"evaluator": "multiple_choice", "file": str(tiny.tasks[name]), "limit": 60, "score": "bits_per_byte"}
        for name in ("count", "largest")
    }
    experts = {name: str(tiny.experts[name]) for name in ("count", "largest")}
    space = {"kind": "uniform", "ranges": {"weight": [0, 1]}}
    file = write_search(
        folder, tiny, "random", tasks=tasks, experts=experts, space=space, keep={"count": 0.02}, budget={"trials": 14}
    )
    run_here(file)
    return Run(folder / "study")


def test_the_search_follows_bits_and_the_verdict_is_about_accuracy(run: Run) -> None:
    for split, smooth in (("search", True), ("select", False), ("report", False)):
        front = run.scored(split)
        assert set(front.objective.smooth) == ({"count", "largest"} if smooth else set())
        for point in front.points:
            for task, scores in point.scores.items():
                assert (scores.metric is not None) == smooth
                assert set(np.unique(scores.by_metric.values)) <= {0.0, 1.0}
                assert scores.is_share != smooth or scores.values.max() <= 1
                assert front.objective.sign(task) == (-1 if smooth else 1)
    assert "points" in run.verdict
    candidates = [point for point in run.scored("search").points if point.is_candidate]
    losses = {point.number: point.losses.mean() for point in candidates}
    told = {e.trial.number: e.losses for e in run.study.told if e.trial.number in losses}
    assert {number: found[0] for number, found in told.items() if found} == pytest.approx(losses)
    assert min(losses.values()) > 0  # bits, of which less is better


def test_floors_are_measured_by_accuracy(run: Run) -> None:
    points = run.scored("search").points
    best = max(point.scores["count"].by_metric.mean for point in points if point.is_parent)
    assert {point.keeps for point in points} == {True, False}
    for point in points:
        assert point.keeps == (point.scores["count"].by_metric.mean >= best - 0.02 - 1e-9)


def test_tables_and_notes_name_the_unit(run: Run) -> None:
    console = Console(width=160, record=True)
    data, text = show_front(run, "search", 160)
    console.print(text)
    shown = console.export_text()
    assert data["tasks"] == {"count": "smaller", "largest": "smaller"}
    assert data["smooth"] == {"count": "bits_per_byte", "largest": "bits_per_byte"}
    assert "count (bits per byte)" in " ".join(shown.split())
    assert "count is scored by bits per byte on the search split, lower is better" in shown
    data, text = show_front(run, "report", 160)
    console.print(text)
    assert data["tasks"] == {"count": "larger", "largest": "larger"}
    assert "bits per byte" not in console.export_text()
    said = study_data(run)
    assert [note.split(" on ")[0] for note in said["smooth"]] == [
        f"{task} is scored by bits per byte" for task in ("count", "largest")
    ]
    assert all(task["lower_is_better"] and task["smooth"] == "bits per byte" for task in said["tasks"])
    assert "count (bits per byte)" in repr(run.table("search"))
    assert "bits per byte" not in repr(run.table("report"))
