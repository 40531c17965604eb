"""Progress of an export without a terminal."""

import json

import pytest

from evomerge.commands.progress import counted, progress_bar
from evomerge.report.live import QUIET


def test_amounts_add_up_to_whole_numbers() -> None:
    seen: list[tuple[int, int]] = []
    step = counted(lambda done, total: seen.append((done, total)), 9.6)
    for _ in range(3):
        step(3.2)
    assert seen == [(3, 10), (6, 10), (10, 10)]


def test_without_a_terminal_there_is_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    with progress_bar("merging", clock=lambda: now[0]) as note:
        for done in range(5):
            note(done, 5)
            now[0] += QUIET / 2
    said = capsys.readouterr()
    lines = [json.loads(line) for line in said.err.splitlines()]
    assert lines == [{"event": "progress", "message": "merging", "done": n, "total": 5} for n in (2, 4)]
    assert said.out == ""
