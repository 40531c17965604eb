"""The status of studies that are open, stopped, paused and done."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from evomerge.report.status import render, status
from evomerge.run import Run
from evomerge.study import Study
from evomerge.study.writer import LOCK
from evomerge.trial import Trial
from tests.evomerge.report.studies import baseline, tell, write_study


def test_an_open_study(tmp_path: Path) -> None:
    write_study(tmp_path / "s").close()
    data = status(Run.of(Study.read(tmp_path / "s")))
    assert (data["state"], data["told"], data["pending"], data["failed"]) == ("open", 6, 1, 1)
    assert data["last_failure"] == {"kind": "NonFiniteScore", "message": "NonFiniteScore happened"}
    assert data["best"]["number"] == 4
    assert [row["label"] for row in data["baselines"]] == ["parent:a", "parent:b"]
    assert data["next"] == f"evomerge search {tmp_path / 's' / 'search.yaml'} --resume"
    assert json.loads(json.dumps(data, allow_nan=False)) == data


def test_a_study_runs_as_long_as_its_writer_has_the_lock(tmp_path: Path) -> None:
    lock = tmp_path / "s" / LOCK
    study = write_study(tmp_path / "s")
    data = status(Run.of(Study.read(tmp_path / "s")))
    assert (data["state"], data["next"]) == ("running", None)
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(render(data))
    assert "running (a process is running it)" in console.export_text()
    signature = lock.read_bytes()
    for other in (b"", signature.replace(b'"host": "', b'"host": "not-')):
        lock.write_bytes(other)
        assert status(Run.of(Study.read(tmp_path / "s")))["state"] == "open"
    lock.write_bytes(signature)
    assert status(Run.of(Study.read(tmp_path / "s")))["state"] == "running"
    study.close()  # this process, whose number the lock still has, lives on
    data = status(Run.of(Study.read(tmp_path / "s")))
    assert data["state"] == "open"
    console.print(render(data))
    text = " ".join(console.export_text().split())
    assert "open (no process on this machine is writing to it: the last one was killed, or" in text
    assert f"To resume: evomerge search {tmp_path / 's' / 'search.yaml'} --resume" in text


@pytest.mark.parametrize(("kind", "reason"), [("paused", "5 in a row"), ("stopped", None)])
def test_how_a_session_ended_holds_until_the_next_one(tmp_path: Path, kind: str, reason: str | None) -> None:
    study = write_study(tmp_path / "s")
    study.event(kind, reason="5 in a row")
    study.close()
    data = status(Run.of(Study.read(tmp_path / "s")))
    assert (data["state"], data["paused_because"]) == (kind, reason)
    Study.open(tmp_path / "s").close()
    assert status(Run.of(Study.read(tmp_path / "s")))["state"] == "open"


def test_a_study_is_done_when_its_report_is_complete(tmp_path: Path) -> None:
    study = Study.create(tmp_path / "s", {"tasks": {"one": "x", "two": "x"}}, {})
    study.event("selected", label="trial:4")
    study.event("report_split_read", winner="trial:4")
    assert status(Run.of(study))["state"] == "running"
    trial = Trial(0, None, merge=baseline(1.0), label="trial:4", split="report")
    tell(study, trial, [1.0, 0.0], [1.0, 1.0])
    data = status(Run.of(study))
    assert (data["state"], data["next"], data["selected"]) == ("done", None, "trial:4")
    # Scores on the report split are no candidates of the search.
    assert (data["told"], data["best"]) == (0, None)


def test_a_winner_beyond_the_budget_is_explained(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s")
    tell(study, Trial(8, np.array([0.5]), label="recommended:7"), [1.0] * 4, [0.0] * 4)
    study.event("selected", label="trial:6", candidates=7)
    assert status(Run.of(study))["selected_is"] == ""
    study.event("selected", label="trial:8", candidates=7)
    data = status(Run.of(study))
    assert (
        data["selected_is"]
        == "the point that the optimizer recommends at its end, scored once more than the budget counts"
    )
    study.event("selected", label="uniform", candidates=7)
    assert status(Run.of(study))["selected_is"] == ""


def test_the_models_have_a_column_per_task(tmp_path: Path) -> None:
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(render(status(Run.of(write_study(tmp_path / "s")))))
    lines = [line.strip("│┃ ") for line in console.export_text().splitlines()]
    rows = [[cell.strip() for cell in line.replace("┃", "│").split("│")] for line in lines]
    assert ["model", "one", "two", "score"] in rows
    assert [row[:3] for row in rows if row[0] == "trial 4"] == [["trial 4", "0.750", "1.000"]]
    assert [row[:3] for row in rows if row[0] == "parent:a"] == [["parent:a", "0.500", "1.000"]]


def test_people_see_state_failures_and_how_to_go_on(tmp_path: Path) -> None:
    console = Console(width=300, record=True, file=(tmp_path / "out").open("w"))
    write_study(tmp_path / "s").close()
    console.print(render(status(Run.of(Study.read(tmp_path / "s")))))
    console.file.close()
    text = console.export_text()
    for part in (
        "open",
        "6 completed (1 failed), 1 pending",
        "best merge",
        "(trial 4; none of 2 baselines is better)",
        "parent:a",
        "NonFiniteScore 1",
        "--resume",
    ):
        assert part in text
