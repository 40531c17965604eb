"""Partial trials are counted in evaluations, and shown wherever progress is."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from evomerge.budget import evaluations, spending, spent_of
from evomerge.cli import app
from evomerge.objective import Objective
from evomerge.report import plot
from evomerge.report.html.document import document
from evomerge.report.html.sources import PageSources
from evomerge.report.live import BETWEEN, JsonLines, table
from evomerge.report.optuna_view import OptunaView
from evomerge.report.snapshot import stages_of, take
from evomerge.report.status import render, status
from evomerge.results.history import history
from evomerge.results.partial import SMOOTHED, part_way
from evomerge.run import Run
from evomerge.study import Study
from evomerge.study.follow import Follower
from evomerge.trackers._story import Story
from evomerge.trial import Failure, Outcome, Trial
from tests.evomerge.report.parts import IDS, descended, raced, step, whole
from tests.evomerge.report.studies import write_study


@pytest.fixture(scope="module")
def race(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return raced(tmp_path_factory.mktemp("race"))


def printed(view: object, width: int = 200) -> str:
    console = Console(width=width, file=io.StringIO())
    console.print(view)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_evaluations_are_counted_and_named_wherever_progress_is_shown(tmp_path: Path) -> None:
    study = descended(tmp_path / "s")
    spent = spending(study)
    assert (spent.evaluations, spent.gradient_steps, spent.on_part) == (5 + 4 * 0.75, 4, 0)
    assert spent_of(study, 40) == "8.0 of 40 evaluations"
    snapshot = take(Run.of(study), trials=40)
    shown = printed(table(snapshot, 200))
    assert "8.0 of 40 evaluations [####" in shown
    assert "5 in full, 4 gradient steps" in shown
    data = status(Run.of(study))
    assert (data["evaluations"], data["gradient_steps"], data["budget"]) == (8.0, 4, None)
    assert "8.0 evaluations, 4 gradient steps" in printed(render(data))


def test_a_search_of_whole_trials_is_shown_as_before(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s")
    assert spent_of(study, 20) == "6 of 20 trials"
    shown = printed(table(take(Run.of(study), trials=20), 200))
    assert "6 of 20 [####" in shown
    data = status(Run.of(study))
    assert "evaluations" not in shown + printed(render(data))
    assert (data["gradients"], data["part_way"], data["decisions"]) == (None, None, [])


def test_the_seconds_of_steps_are_not_waiting(tmp_path: Path) -> None:
    study = descended(tmp_path / "s")
    stages = stages_of(study, 0)
    assert stages == {"merge": 5 * 0.5, "evaluate:one": 5.0, "gradient:one": 4 * 2.0}


def test_decisions_are_in_the_status(tmp_path: Path) -> None:
    data = status(Run.of(descended(tmp_path / "s")))
    assert data["decisions"] == ["Gradients on one, which has a loss", "Descent in all groups: kept"]
    assert "Descent in all groups: kept" in printed(render(data))


def test_the_losses_of_steps_and_the_checks(tmp_path: Path) -> None:
    found = Run.of(descended(tmp_path / "s")).partial["gradients"]
    assert found is not None
    steps = found["steps"]
    assert steps["number"] == [3, 4, 5, 7]
    assert steps["loss"] == pytest.approx([1.0, 0.75, 0.5, 4.0])
    assert steps["smoothed"] == pytest.approx([1.0, 0.875, 0.75, 4.0]), "the mean begins anew after a check"
    assert steps["checks"] == [0, 0, 0, 1]
    assert steps["examples"] == [2] * 4
    assert steps["evaluations"] == pytest.approx([3.75, 4.5, 5.25, 7.0])
    assert found["checks"] == [
        {"number": 6, "evaluations": 6.25, "score": 0.75},
        {"number": 8, "evaluations": 8.0, "score": 0.625},
    ]
    assert found["skipped"] == 1


def test_only_the_last_steps_are_averaged(tmp_path: Path) -> None:
    found = Run.of(descended(tmp_path / "s", n_steps=SMOOTHED + 2)).partial["gradients"]
    last = [1.0 - n / 4 for n in range(SMOOTHED + 2)][-SMOOTHED:]
    assert found["steps"]["smoothed"][SMOOTHED + 1] == pytest.approx(np.mean(last))


def test_progress_goes_by_cost(tmp_path: Path) -> None:
    run = Run.of(descended(tmp_path / "s"))
    rows = history(run.study, run.scored())
    assert rows["number"] == [0, 1, 2, 6, 8]
    assert rows["evaluations"] == pytest.approx([1.0, 2.0, 3.0, 6.25, 8.0])


def test_candidates_that_were_stopped_and_when(race: Path) -> None:
    study, run = Study.read(race), Run(race)
    found = run.partial["part_way"]
    assert found is not None
    begun = [e for e in study.parts.values() if e.trial.extends is None]
    in_full = [e for e in study.told if e.trial.extends is not None]
    assert {e.trial.split for e in in_full} == {"search"}
    assert (found["candidates"], found["in_full"]) == (len(begun), len(in_full))
    assert found["stopped"] + found["in_full"] + found["waiting"] == found["candidates"]
    assert found["stopped"] > 10
    assert found["in_full"] > 0
    assert len(found["by_examples"]) > 1
    assert next(row["examples"] for row in found["by_examples"]) == 50
    assert sum(row["stopped"] for row in found["by_examples"]) == found["stopped"]
    assert found["saved"] == pytest.approx(sum(1 - row["share"] for row in found["numbers"]))
    # Without the race all candidates would have been scored in full.
    waiting = found["waiting"] * 1.0
    cost = sum(e.trial.cost for e in study.parts.values()) + sum(e.trial.cost for e in in_full)
    assert cost + found["saved"] + waiting == pytest.approx(found["candidates"], abs=1.0)
    dropped = {row["number"] for row in found["numbers"]}
    assert dropped <= {e.trial.number for e in begun}
    assert dropped.isdisjoint(e.trial.number for e in study.told)


def test_a_candidate_that_is_being_scored_further_is_not_stopped(tmp_path: Path) -> None:
    study = Study.create(tmp_path / "s", {"tasks": {"one": "synthetic"}, "objective": "mean"}, {})
    whole(study, Trial(0, np.array([0.5]), label="start"), 4)
    for number, extends in ((1, None), (2, None), (3, None), (4, 2)):
        study.ask(Trial(number, np.array([0.1]), examples={"one": IDS[:2]}, extends=extends, cost=0.25))
    for number in (1, 2):
        study.tell(Outcome(number), None)
    study.tell(Outcome(3, failure=Failure("nonfinite", "no number")), None)
    found = part_way(study, Objective({"one": 1.0}), ())
    assert found is not None
    assert [row["number"] for row in found["numbers"]] == [1]
    assert (found["stopped"], found["waiting"], found["candidates"]) == (1, 1, 3)
    waits = part_way(study, Objective({"one": 1.0}), (1,))
    assert waits is not None
    assert (waits["stopped"], waits["waiting"]) == (0, 2)


def test_failed_parts_are_counted(tmp_path: Path) -> None:
    study = descended(tmp_path / "s")
    study.ask(Trial(9, np.array([0.1]), examples={"one": IDS[:2]}, cost=0.25))
    study.tell(Outcome(9, failure=Failure("nonfinite", "no number")), None)
    data = status(Run.of(study))
    assert (data["failures"], data["failed"]) == ({"nonfinite": 1}, 1)
    assert data["last_failure"] == {"kind": "nonfinite", "message": "no number"}


def test_lines_of_steps_come_now_and_then(tmp_path: Path) -> None:
    study = descended(tmp_path / "s")
    run, now, stream = Run.of(study), [0.0], io.StringIO()
    view = JsonLines(stream, clock=lambda: now[0])
    view.update(take(run))
    number = study.next_number
    for n in range(40):
        now[0] += BETWEEN / 4
        step(study, number + n, 1.0)
        view.update(take(run))
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    progress = [line for line in lines if line["event"] == "progress"]
    assert len(progress) == 1 + 10
    assert progress[1]["gradient_steps"] == 4 + 4
    assert progress[-1]["evaluations"] == pytest.approx(8 + 40 * 0.75)
    whole(study, Trial(number + 40, np.array([0.3])), 7)
    view.update(take(run))
    last = json.loads(stream.getvalue().splitlines()[-1])
    assert (last["told"], last["best"]["number"]) == (6, number + 40), "a whole trial is told at once"


def test_the_page_has_all_of_it(tmp_path: Path, race: Path) -> None:
    run = Run.of(descended(tmp_path / "s"))
    data: dict[str, Any] = document(run, PageSources((), missing="no models"))
    assert data["gradients"] == run.partial["gradients"]
    assert data["decisions"] == list(status(run)["decisions"])
    assert data["study"]["spent"] == "8.0 evaluations, 4 gradient steps"
    assert data["cost"]["workers"] == {"w": {"trials": 9, "seconds": pytest.approx(5 * 1.5 + 4 * 2.0)}}


def test_the_dashboard_and_trackers_read_a_race(race: Path) -> None:
    view = OptunaView(follower := Follower(race))
    view.update()
    study = follower.study
    assert view.size == sum(e.trial.split == "search" for e in study.entries.values())
    said = view.storage.get_all_studies()[0].user_attrs["spent"]
    assert said.startswith(f"{spending(study).evaluations:.1f} evaluations, ")
    story = Story(again := Follower(race))
    points, _ = story.tell(again.poll())
    assert [int(p.values["trial"]) for p in points] == [e.trial.number for e in study.told if e.trial.split == "search"]
    assert points[-1].values["evaluations"] == pytest.approx(evaluations(study))


def test_a_dashboard_that_watches_takes_no_part_for_a_candidate(tmp_path: Path) -> None:
    study = descended(tmp_path / "s")
    view = OptunaView(Follower(tmp_path / "s"))
    view.update()
    number = study.next_number
    step(study, number, 1.0)
    whole(study, Trial(number + 1, np.array([0.2])), 3)
    before = view.size
    view.update()
    assert view.size == before + 1
    assert view.storage.get_all_studies()[0].user_attrs["spent"] == "9.8 evaluations, 5 gradient steps"


def test_a_report_prints_what_the_page_and_the_status_have(race: Path) -> None:
    done = CliRunner().invoke(app, ["report", str(race), "--json"])
    assert done.exit_code == 0, done.output
    said, page = json.loads(done.stdout), (race / "report.html").read_text(encoding="utf-8")
    known = json.loads(json.dumps(status(Run(race))))
    assert said["part_way"] == known["part_way"]
    assert (said["gradients"], said["decisions"]) == (None, [])
    found = said["part_way"]
    assert f"{found['stopped']} of {found['candidates']} candidates were stopped before all 439 examples" in page
    assert f'<th scope="row">50 examples</th><td>11 %</td><td>{found["by_examples"][0]["stopped"]} ' in page


def test_a_plot_goes_by_cost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    seen: list[Any] = []
    monkeypatch.setattr(plot, "_tidy", seen.append)
    plot.plot_progress(Run.of(descended(tmp_path / "s")), tmp_path / "p.png")
    lines = {line.get_label(): list(line.get_xdata()) for line in seen[0].get_lines()}
    assert lines["candidates"] == pytest.approx([3.0, 6.25, 8.0])
    assert seen[0].get_xlabel() == "evaluations of the search split"


def test_trackers_are_told_the_loss_of_the_steps(tmp_path: Path) -> None:
    descended(tmp_path / "s").close()
    points, _ = Story(follower := Follower(tmp_path / "s")).tell(follower.poll())
    assert [p.values.get("gradient/loss") for p in points] == [None, None, None, pytest.approx(0.75), 4.0]
    assert [p.values.get("evaluations") for p in points] == [None, None, None, pytest.approx(6.25), 8.0]


def test_a_narrow_terminal_shows_no_bar(tmp_path: Path) -> None:
    snapshot = take(Run.of(descended(tmp_path / "s")), trials=40)
    shown = printed(table(snapshot, 50), 50)
    assert "8.0 of 40 evaluations" in shown
    assert "[#" not in shown
    assert "evaluations" not in printed(table(replace(snapshot, spending=type(snapshot.spending)(5.0)), 200))
