"""The view of a running search: a live table on a terminal, one JSON line per event elsewhere."""

import json
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any, Protocol

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from evomerge.report import words
from evomerge.report.snapshot import Snapshot
from evomerge.report.status import leading_rows
from evomerge.results.as_json import so_far_to_dict
from evomerge.results.progress import best_of_families


class View(Protocol):
    """Display of a running search; a context manager."""

    def __enter__(self) -> "View": ...

    def __exit__(self, *error: object) -> None: ...

    def update(self, snapshot: Snapshot) -> None:
        """Show the current state of the search."""

    def event(self, kind: str, message: str = "", **data: Any) -> None:
        """Report an event. kind: a word; message: a sentence for people; data: for programs."""

    def alive(self) -> None:
        """Show that the search is alive, if nothing was shown for a while."""


#: Seconds without output after which JSON lines say that the search is alive.
QUIET = 60.0
#: Seconds between two JSON lines while only parts of candidates and gradients end.
BETWEEN = 5.0


class LiveView:
    """Table redrawn in place on a terminal; messages scroll above it."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=False)

    def __enter__(self) -> "LiveView":
        self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.stop()

    def update(self, snapshot: Snapshot) -> None:
        """Redraw the table."""
        with _readers_may_leave(self._console.file):
            self._live.update(table(snapshot, self._console.width), refresh=True)

    def event(self, kind: str, message: str = "", **data: Any) -> None:  # noqa: ARG002 - data is for programs
        """Print the message above the table; an event without one is for programs only."""
        if message:
            with _readers_may_leave(self._console.file):
                self._console.print(Text(f"note: {message}" if kind == "note" else message), soft_wrap=True)

    def alive(self) -> None:
        """Do nothing: a table or message is on the screen already."""


class JsonLines:
    """Event log with one JSON object per line.

    `baseline`: what a baseline scored, once. `progress`: whenever a whole trial ended or the phase changed, the phase,
    the count of trials, and of the rest of the state what is not as in the line before; for parts of candidates and
    gradients, once they have ended, at most every BETWEEN seconds. `alive`: after QUIET seconds without a line, in
    every phase. clock: seconds of a monotonic clock.
    """

    def __init__(self, stream: IO[str], clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._written = self._phase_began = clock()
        self._phase = "start"
        self._state: dict[str, Any] = {}
        self._baselines: set[int] = set()

    def __enter__(self) -> "JsonLines":
        return self

    def __exit__(self, *error: object) -> None:
        """Do nothing: every line was flushed."""

    def update(self, snapshot: Snapshot) -> None:
        """Write new baselines, and a progress line if anything changed."""
        for baseline in sorted(snapshot.baselines, key=lambda baseline: baseline.number):
            if baseline.number not in self._baselines:
                self._baselines.add(baseline.number)
                self._write({"event": "baseline", **so_far_to_dict(baseline)})
        state = snapshot.as_dict()
        del state["baselines"], state["decisions"]  # they are events
        self._enter(state["phase"])
        now = {"phase": state["phase"], "told": state["told"]}
        if now.items() <= self._state.items() and not self._is_news(state):
            return
        changed = {key: value for key, value in state.items() if key not in self._state or self._state[key] != value}
        self._state = state
        self._write({"event": "progress", **now, **changed})

    def event(self, kind: str, message: str = "", **data: Any) -> None:
        """Write an event."""
        said = {"message": message} if message else {}
        self._write({"event": kind, **said, **data})

    def alive(self) -> None:
        """Write the phase and its seconds so far, if nothing has been written for QUIET seconds."""
        if self._clock() - self._written >= QUIET:
            seconds = round(self._clock() - self._phase_began, 1)
            self._write({"event": "alive", "phase": self._phase, "phase_seconds": seconds})

    def _is_news(self, state: Mapping[str, Any]) -> bool:
        """Whether parts of candidates have ended, and the last line is old enough."""
        return state["evaluations"] != self._state["evaluations"] and self._clock() - self._written >= BETWEEN

    def _enter(self, phase: str) -> None:
        if phase != self._phase:
            self._phase, self._phase_began = phase, self._clock()

    def _write(self, data: Mapping[str, Any]) -> None:
        self._written = self._clock()
        with _readers_may_leave(self._stream):
            self._stream.write(json.dumps(data, allow_nan=False, default=str) + "\n")
            self._stream.flush()


@contextmanager
def _readers_may_leave(stream: IO[str]) -> Iterator[None]:
    """Continue without output when it can no longer be written: a search is worth more than its output.

    The pipe has no reader, the terminal was closed or the disk of a redirected file is full. All that follows, and
    what is flushed when Python ends, goes nowhere.
    """
    try:
        yield
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        try:
            sys.stderr.write("The output can no longer be written. The search continues without it.\n")
            sys.stderr.flush()
        except OSError:
            os.dup2(nowhere, sys.stderr.fileno())


class Interruptible:
    """View for signal handlers and several threads: calls during a write are queued and done after it.

    interval: seconds between two looks of its own thread, which lets the view say that the search is alive also while
    the main thread loads models or scores a candidate.
    """

    def __init__(self, view: View, interval: float = QUIET / 4) -> None:
        self._view = view
        self._waiting: deque[Callable[[], None]] = deque()
        self._writing = threading.Lock()
        self._interval = interval
        self._ended = threading.Event()
        self._watch = threading.Thread(target=self._stay_alive, name="alive", daemon=True)

    def __enter__(self) -> "Interruptible":
        self._view.__enter__()
        self._watch.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._watch.join()
        self._view.__exit__(*error)

    def update(self, snapshot: Snapshot) -> None:
        """Show where the search stands now."""
        self._write(lambda: self._view.update(snapshot))

    def event(self, kind: str, message: str = "", **data: Any) -> None:
        """Say that something happened."""
        self._write(lambda: self._view.event(kind, message, **data))

    def alive(self) -> None:
        """Show that the search is alive."""
        self._write(self._view.alive)

    def _stay_alive(self) -> None:
        while not self._ended.wait(self._interval):
            self.alive()

    def _write(self, action: Callable[[], None]) -> None:
        self._waiting.append(action)
        # A thread that fails to get the lock has appended before the holder checks the queue again.
        while self._waiting and self._writing.acquire(blocking=False):
            try:
                self._write_next()
            finally:
                self._writing.release()

    def _write_next(self) -> None:
        try:
            action = self._waiting.popleft()
        except IndexError:  # a handler has just written it
            return
        action()


def choose(console: Console, *, as_json: bool) -> View:
    """Return the table on a terminal; JSON lines elsewhere or on request."""
    return JsonLines(console.file) if as_json or not console.is_terminal else LiveView(console)


def table(snapshot: Snapshot, width: int) -> Table:
    """Return the live table. width: of the terminal, in characters."""
    rows = Table.grid(padding=(0, 1))
    rows.add_column(style="bold", no_wrap=width >= 40)
    rows.add_column(overflow="fold")
    for name, value in _rows(snapshot, width):
        rows.add_row(Text(name), Text(value))
    return rows


def _rows(snapshot: Snapshot, width: int) -> list[tuple[str, str]]:
    rows = [("study", snapshot.study), ("phase", snapshot.phase)]
    data = snapshot.as_dict()
    if snapshot.has_parts:
        trials = ", ".join([f"{snapshot.told} in full", *words.partial(data)])
        rows += [("spent", _spent(snapshot, width)), ("trials", trials)]
    else:
        rows.append(("trials", _trials(snapshot, width)))
    rows += [("numbers", text) for text in words.numbers(snapshot.numbered, snapshot.told + snapshot.busy)]
    rows += leading_rows(data)
    listed = snapshot.baselines if snapshot.front is not None else best_of_families(snapshot.baselines)
    rows += [(baseline.label, words.score(so_far_to_dict(baseline))) for baseline in listed]
    left = "" if snapshot.left is None else f", about {words.duration(snapshot.left)} left"
    rows.append(("time", f"{words.duration(snapshot.seconds)}{left}"))
    if snapshot.outlook:
        rows.append(("next", snapshot.outlook))
    if snapshot.slots:
        rows.append(("workers", f"{snapshot.busy} of {snapshot.slots} busy"))
    if snapshot.stages:
        rows.append(("stages", words.shares(dict(snapshot.stages))))
    if snapshot.failures:
        rows.append(("failures", words.counts(dict(snapshot.failures))))
    return rows


def _trials(snapshot: Snapshot, width: int) -> str:
    if snapshot.trials is None:
        return str(snapshot.told)
    return f"{snapshot.told} of {snapshot.trials}{_bar(snapshot.told, snapshot.trials, width - 40)}"


def _spent(snapshot: Snapshot, width: int) -> str:
    spent, limit = snapshot.spending.evaluations, snapshot.trials
    said = words.evaluations(spent, limit)
    return said if limit is None else f"{said}{_bar(int(spent), limit, width - 52)}"


def _bar(done: int, total: int, room: int) -> str:
    """A bar after its numbers, of at most 30 characters; nothing where there is no room for one."""
    return f" {words.bar(done, total, min(30, room))}" if room >= 10 else ""
