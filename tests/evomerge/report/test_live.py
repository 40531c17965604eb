"""The live table on narrow, colourless and foreign terminals; JSON lines elsewhere."""

import io
import json
import re
import threading
from dataclasses import replace

import pytest
from rich.console import Console

from evomerge.objective import Objective
from evomerge.report.live import QUIET, Interruptible, JsonLines, LiveView, choose, table
from evomerge.report.snapshot import Snapshot
from tests.evomerge.results.models import scored_models

ROWS = {"parent:größe": {"add": 0.652}, "trial:37": {"add": 0.731}}
PARENT, BEST = scored_models(Objective({"add": 1.0}), ROWS, spread=0.147)
SNAPSHOT = Snapshot(
    study="runs/quick",
    told=41,
    trials=200,
    busy=2,
    slots=2,
    seconds=600.0,
    left=2400.0,
    best=BEST,
    baselines=(PARENT,),
    failures={"nonfinite": 2},
    stages={"merge": 1.0, "evaluate:add": 9.0},
)


def terminal(width: int, encoding: str = "utf-8") -> Console:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="backslashreplace")
    return Console(
        file=stream, width=width, height=50, force_terminal=True, _environ={"NO_COLOR": "1", "TERM": "xterm"}
    )


def shown(console: Console) -> str:
    console.file.flush()
    raw: bytes = console.file.buffer.getvalue()  # type: ignore[attr-defined]
    return raw.decode(console.encoding)


def test_the_table_says_what_matters() -> None:
    console = terminal(100)
    console.print(table(SNAPSHOT, 100))
    text = shown(console)
    for part in (
        "41 of 200 [",
        "0.731 [0.702, 0.760] (trial 37; none of 1",
        "0.652",
        "about 40 min left",
        "2 of 2 busy",
    ):
        assert part in text
    assert "evaluate:add 90 %, merge 10 %" in text
    assert "nonfinite 2" in text


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "ascii"])
@pytest.mark.parametrize("width", [20, 40, 200])
@pytest.mark.fault("F43", "terminals of many widths and encodings", "every line fits")
def test_it_fits_any_terminal(width: int, encoding: str) -> None:
    console = terminal(width, encoding)
    console.print(table(SNAPSHOT, width))
    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown(console))
    lines = plain.replace("\\xf6", "ö").replace("\\xdf", "ß").splitlines()
    assert max(len(line.rstrip()) for line in lines) <= width
    assert "0.731" in "".join(lines)


@pytest.mark.fault("F43", "NO_COLOR", "no control sequences")
def test_no_color_means_no_color() -> None:
    console = terminal(80)
    with LiveView(console) as view:
        view.update(SNAPSHOT)
        view.event("failed", "trial 9 failed: [red]nonfinite[/red]")
    text = shown(console)
    assert "\x1b[3" not in text
    assert "trial 9 failed: [red]nonfinite[/red]" in text


def test_events_without_a_message_are_not_shown_to_people() -> None:
    console = terminal(80)
    with LiveView(console) as view:
        view.event("planned", dimension=9876)
    assert "9876" not in shown(console)


def test_without_a_terminal_there_is_one_json_line_per_event() -> None:
    stream = io.StringIO()
    with choose(Console(file=stream), as_json=False) as view:
        view.event("message", "checking\nthe models")
        view.update(SNAPSHOT)
        view.update(SNAPSHOT)
        view.event("failed", number=9)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["event"] for line in lines] == ["message", "baseline", "progress", "failed"]
    assert lines[0]["message"] == "checking\nthe models"
    assert (lines[1]["label"], lines[1]["score"]) == ("parent:größe", pytest.approx(0.652))
    assert (lines[2]["told"], lines[2]["best"]["number"], lines[2]["seconds_left"]) == (41, 37, 2400.0)
    assert lines[3] == {"event": "failed", "number": 9}


def test_a_progress_line_says_only_what_changed() -> None:
    stream = io.StringIO()
    view = JsonLines(stream)
    later = replace(SNAPSHOT, told=42, busy=1)
    for snapshot in (SNAPSHOT, replace(SNAPSHOT, busy=1), later, replace(later, phase="select")):
        view.update(snapshot)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["event"] for line in lines] == ["baseline", "progress", "progress", "progress"]
    assert lines[2] == {"event": "progress", "phase": "search", "told": 42, "busy": 1}
    assert lines[3] == {"event": "progress", "phase": "select", "told": 42}
    merged: dict[str, object] = {}
    for line in lines[1:]:
        merged |= line
    whole = replace(later, phase="select").as_dict()
    del whole["baselines"], whole["decisions"]
    assert merged == {"event": "progress", **whole}


class Nested:
    """A view that a signal interrupts in the middle of every first writing of an event."""

    def __init__(self) -> None:
        self.written: list[str] = []
        self.outside: Interruptible

    def __enter__(self) -> "Nested":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def update(self, snapshot: Snapshot) -> None:
        self.event("update")

    def alive(self) -> None:
        self.event("alive")

    def event(self, kind: str, message: str = "", **data: object) -> None:
        self.written.append(f"begin {kind}")
        if kind == "update":
            self.outside.event("stopping")
        self.written.append(f"end {kind}")


def test_what_a_signal_handler_says_never_lands_inside_a_line() -> None:
    inner = Nested()
    with Interruptible(inner) as view:
        inner.outside = view
        view.update(SNAPSHOT)
        view.event("failed")
    assert inner.written == [f"{at} {kind}" for kind in ("update", "stopping", "failed") for at in ("begin", "end")]


def test_a_phase_without_news_says_that_it_is_alive() -> None:
    now = [0.0]
    stream = io.StringIO()
    view = JsonLines(stream, clock=lambda: now[0])
    view.event("message", "reading the tasks")
    now[0] = QUIET - 1
    view.alive()
    now[0] = QUIET
    view.alive()
    now[0] += QUIET - 1
    view.update(replace(SNAPSHOT, phase="canary"))
    view.update(replace(SNAPSHOT, phase="canary"))
    view.alive()
    now[0] += 3 * QUIET
    view.alive()
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    alive = [line for line in lines if line["event"] == "alive"]
    assert alive == [
        {"event": "alive", "phase": "start", "phase_seconds": QUIET},
        {"event": "alive", "phase": "canary", "phase_seconds": 3 * QUIET},
    ]


def test_it_is_alive_while_the_main_thread_is_busy_and_writes_one_line_at_a_time() -> None:
    """Two threads write for as long as it takes to see each of them wait for the other."""
    beats = threading.Event()

    class Slow(Nested):
        def event(self, kind: str, message: str = "", **data: object) -> None:
            super().event(kind)
            if kind == "alive":
                beats.set()

    inner = Slow()
    with Interruptible(inner, interval=0.0001) as view:
        inner.outside = view
        for _ in range(200):
            view.event("failed")
        assert beats.wait(60), "this thread does nothing meanwhile"
    assert inner.written[::2] == [f"begin {line.removeprefix('end ')}" for line in inner.written[1::2]]
    assert inner.written.count("end failed") == 200


def test_json_can_be_asked_for_on_a_terminal() -> None:
    assert isinstance(choose(terminal(80), as_json=True), JsonLines)
    assert isinstance(choose(terminal(80), as_json=False), LiveView)


def test_json_lines_are_ascii() -> None:
    stream = io.StringIO()
    JsonLines(stream).update(SNAPSHOT)
    assert stream.getvalue().isascii()
