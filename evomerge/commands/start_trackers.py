"""Tracker processes of a search: start, messages and shutdown, without ever blocking the search."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from evomerge.trackers import FOLDER, SAID

#: Seconds between two reads of the logs, and to wait at the end of a search for trackers to send their last data.
PAUSE, LAST = 1.0, 10.0


class _Process:
    """One tracker: its process and its messages."""

    def __init__(self, kind: str, target: str, run: Path) -> None:
        self.kind = kind
        self.well = True
        self._ended = False
        folder = run / FOLDER
        folder.mkdir(exist_ok=True)
        self.log = folder / f"{kind}.log"
        with self.log.open("ab") as log:
            self._read = log.tell()
            self.process = subprocess.Popen(
                [sys.executable, "-m", "evomerge.trackers", kind, target, str(run)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the search
            )

    def news(self) -> list[str]:
        """Return its messages since the last call, including its exit."""
        with self.log.open("rb") as log:
            log.seek(self._read)
            lines = [line for line in log if line.endswith(b"\n")]
        self._read += sum(map(len, lines))
        said = [line.decode(errors="replace").strip() for line in lines]
        news = [text.removeprefix(SAID) for text in said if text.startswith(SAID)]
        if news:
            self.well = news[-1] == "answers again"
        if self.process.poll() and not self._ended:
            self._ended, self.well = True, False
            news = news or [f"exited with code {self.process.returncode}, see {self.log}"]
        return [f"{self.kind} {text}; the search continues" for text in news]

    def tell(self, said: bytes) -> None:
        """Notify the process that the search ends, without waiting for one that does not read."""
        pipe = self.process.stdin
        if pipe is None:
            return
        with suppress(OSError):  # it has died
            os.set_blocking(pipe.fileno(), False)
            rest, until = memoryview(said), time.monotonic() + PAUSE
            while rest and time.monotonic() < until:
                try:
                    rest = rest[os.write(pipe.fileno(), rest) :]
                except BlockingIOError:  # a pipe holds 64 kB
                    time.sleep(PAUSE / 20)
        with suppress(OSError):
            pipe.close()


class Trackers:
    """The trackers requested for a search, by kind and target; their faults do not affect the search."""

    def __init__(self, targets: Mapping[str, str]) -> None:
        self._waiting = dict(targets)
        self._running: list[_Process] = []
        self._looked = 0.0

    def missing(self) -> list[str]:
        """Drop trackers whose library is not installed; return a note on each."""
        absent = [kind for kind in self._waiting if find_spec(kind) is None]
        for kind in absent:
            del self._waiting[kind]
        return [
            f"{kind} is not installed: pip install 'evomerge[{kind}]'; the search continues without it"
            for kind in absent
        ]

    def news(self, run: Path) -> list[str]:
        """Start pending trackers, now that there is a study; return new messages."""
        now = time.monotonic()
        if now - self._looked < PAUSE:
            return []
        self._looked = now
        said = []
        for kind, target in self._waiting.items():
            try:
                self._running.append(_Process(kind, target, run))
            except OSError as error:
                said.append(f"{kind} cannot be started: {error}; the search continues")
        self._waiting = {}
        for tracker in self._running:
            with suppress(OSError):
                said += tracker.news()
        return said

    def end(self, ending: str, result: dict[str, Any] | None) -> list[str]:
        """Notify all trackers that the search ends and wait briefly for responsive ones; return the final messages."""
        said = json.dumps({"ending": ending, "result": result}).encode()
        for tracker in self._running:
            tracker.tell(said)
        until = time.monotonic() + LAST
        left = []
        with suppress(KeyboardInterrupt):
            for tracker in self._running:
                try:
                    tracker.process.wait(max(0.0, until - time.monotonic()) if tracker.well else 0.0)
                except subprocess.TimeoutExpired:
                    left.append(f"{tracker.kind} is still sending and will exit on its own; its log is {tracker.log}")
        self._running = []
        return left
