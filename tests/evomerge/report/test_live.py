"""The live table on narrow, colourless and foreign terminals; JSON lines elsewhere."""

import io
import json
import re

import pytest
from rich.console import Console

from evomerge.report.live import JsonLines, LiveView, choose, table
from evomerge.report.snapshot import Snapshot, Standing

BEST = Standing("search", 37, 0.731, 0.015, {"add": 0.8})
SNAPSHOT = Snapshot(
    study="runs/quick",
    told=41,
    trials=200,
    busy=2,
    slots=2,
    seconds=600.0,
    left=2400.0,
    best=BEST,
    baselines=(Standing("parent:größe", 3, 0.652, 0.02, {"add": 0.7}),),
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
    for part in ("41 of 200 [", "0.731 [0.702, 0.760] (trial 37)", "0.652", "about 40 min left", "2 of 2 busy"):
        assert part in text
    assert "evaluate:add 90 %, merge 10 %" in text
    assert "nonfinite 2" in text


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "ascii"])
@pytest.mark.parametrize("width", [20, 40, 200])
def test_it_fits_any_terminal(width: int, encoding: str) -> None:
    console = terminal(width, encoding)
    console.print(table(SNAPSHOT, width))
    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown(console))
    lines = plain.replace("\\xf6", "ö").replace("\\xdf", "ß").splitlines()
    assert max(len(line.rstrip()) for line in lines) <= width
    assert "0.731" in "".join(lines)


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
    assert [line["event"] for line in lines] == ["message", "progress", "failed"]
    assert lines[0]["message"] == "checking\nthe models"
    assert (lines[1]["told"], lines[1]["best"]["number"], lines[1]["seconds_left"]) == (41, 37, 2400.0)
    assert lines[2] == {"event": "failed", "number": 9}


def test_json_can_be_asked_for_on_a_terminal() -> None:
    assert isinstance(choose(terminal(80), as_json=True), JsonLines)
    assert isinstance(choose(terminal(80), as_json=False), LiveView)


def test_json_lines_are_ascii() -> None:
    stream = io.StringIO()
    JsonLines(stream).update(SNAPSHOT)
    assert stream.getvalue().isascii()
