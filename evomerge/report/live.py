"""The view of a running search: a live table on a terminal, one JSON line per event elsewhere."""

import json
from collections.abc import Mapping
from typing import IO, Any, Protocol

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from evomerge.report import words
from evomerge.report.snapshot import Snapshot, leading


class View(Protocol):
    """Shows a search while it runs; a context manager."""

    def __enter__(self) -> "View": ...

    def __exit__(self, *error: object) -> None: ...

    def update(self, snapshot: Snapshot) -> None:
        """Show where the search stands now."""

    def event(self, kind: str, message: str = "", **data: Any) -> None:
        """Say that something happened. kind: a word; message: a sentence for people; data: for programs."""


class LiveView:
    """A table that is drawn over and over on a terminal; messages scroll above it."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=False)

    def __enter__(self) -> "LiveView":
        self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.stop()

    def update(self, snapshot: Snapshot) -> None:
        """Draw the table anew."""
        self._live.update(table(snapshot, self._console.width), refresh=True)

    def event(self, kind: str, message: str = "", **data: Any) -> None:  # noqa: ARG002 - data is for programs
        """Print the message above the table; an event without one is for programs only."""
        if message:
            self._console.print(Text(message), soft_wrap=True)


class JsonLines:
    """One line of JSON per event; a `progress` line whenever a trial ended or the phase changed."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._shown: tuple[str, int] | None = None

    def __enter__(self) -> "JsonLines":
        return self

    def __exit__(self, *error: object) -> None:
        self._stream.flush()

    def update(self, snapshot: Snapshot) -> None:
        """Write a progress line if there is progress."""
        now = snapshot.phase, snapshot.told
        if now != self._shown:
            self._shown = now
            self._write({"event": "progress", **snapshot.as_dict()})

    def event(self, kind: str, message: str = "", **data: Any) -> None:
        """Write an event."""
        said = {"message": message} if message else {}
        self._write({"event": kind, **said, **data})

    def _write(self, data: Mapping[str, Any]) -> None:
        self._stream.write(json.dumps(data, allow_nan=False, default=str) + "\n")
        self._stream.flush()


def choose(console: Console, *, as_json: bool) -> View:
    """The table on a terminal, JSON lines elsewhere or where asked for."""
    return JsonLines(console.file) if as_json or not console.is_terminal else LiveView(console)


def table(snapshot: Snapshot, width: int) -> Table:
    """The live table: what, how much; `width` in characters."""
    rows = Table.grid(padding=(0, 1))
    rows.add_column(style="bold", no_wrap=width >= 40)
    rows.add_column(overflow="fold")
    for name, value in _rows(snapshot, width):
        rows.add_row(Text(name), Text(value))
    return rows


def _rows(snapshot: Snapshot, width: int) -> list[tuple[str, str]]:
    rows = [("study", snapshot.study), ("phase", snapshot.phase), ("trials", _trials(snapshot, width))]
    if snapshot.best is not None:
        rows.append(("best", f"{words.score(snapshot.best)} (trial {snapshot.best.number})"))
    rows += [(standing.label, words.score(standing)) for standing in leading(snapshot.baselines)]
    left = "" if snapshot.left is None else f", about {words.duration(snapshot.left)} left"
    rows.append(("time", f"{words.duration(snapshot.seconds)}{left}"))
    if snapshot.slots:
        rows.append(("workers", f"{snapshot.busy} of {snapshot.slots} busy"))
    if snapshot.stages:
        rows.append(("spent on", words.shares(dict(snapshot.stages))))
    if snapshot.failures:
        rows.append(("failures", words.counts(dict(snapshot.failures))))
    return rows


def _trials(snapshot: Snapshot, width: int) -> str:
    if snapshot.trials is None:
        return str(snapshot.told)
    room = min(30, width - 40)
    drawn = f" {words.bar(snapshot.told, snapshot.trials, room)}" if room >= 10 else ""
    return f"{snapshot.told} of {snapshot.trials}{drawn}"
