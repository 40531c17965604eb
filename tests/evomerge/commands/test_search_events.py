"""What a search says while it runs, in words."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from evomerge.commands.search import worker_text
from evomerge.report.live import JsonLines, LiveView
from tests.evomerge.searches import run_here, write_search


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (
            {"event": "timeout", "trial": 12, "attempt": 1, "worker": "w", "reason": "no outcome after 60 s"},
            "trial 12: timeout: no outcome after 60 s",
        ),
        ({"event": "out_of_memory", "trial": 12, "reason": ""}, "trial 12: out of memory"),
        (
            {"event": "batch_tokens", "device": "NVIDIA H200", "tokens": 16384},
            "batches have 16,384 tokens from now on, as measured on NVIDIA H200",
        ),
    ],
)
def test_events_of_workers(event: dict[str, object], text: str) -> None:
    assert worker_text(12, event) == text


def test_a_note_is_marked_as_one_once() -> None:
    stream = io.StringIO()
    JsonLines(stream).event("note", "3 examples have no answer")
    assert json.loads(stream.getvalue()) == {"event": "note", "message": "3 examples have no answer"}
    console = Console(file=io.StringIO(), width=80, force_terminal=True)
    with LiveView(console) as view:
        view.event("note", "3 examples have no answer")
    assert "note: 3 examples have no answer" in console.file.getvalue()  # type: ignore[attr-defined]


def test_trials_with_the_scores_of_an_earlier_study_are_told_together(tmp_path: Path) -> None:
    file = write_search(tmp_path, trials=8, delay=0.0)
    run_here(file)
    (again := tmp_path / "again.yaml").write_text(file.read_text().replace(str(tmp_path / "study"), "second"))
    told = run_here(again, "--learn-from", tmp_path / "study")
    reused = [line for line in told if line["event"] == "reused"]
    assert len(reused) > 3
    assert not any("message" in line for line in reused)
    said = [line["message"] for line in told if "of an earlier study and are not scored again" in str(line)]
    numbers = [part.partition(" are")[0].removeprefix("trials ").split(", ") for part in said]
    assert [int(each) for part in numbers for each in part] == [line["number"] for line in reused]
    assert len(said) <= 2, "only another outcome comes between them"
