"""Where a worker is: its stage and its stack, as its driver reads them from files of the same machine."""

import faulthandler
import os
import signal
import time
from pathlib import Path

from evomerge.execution._death import log_tail

#: Suffix of the file beside a worker's log that holds its stage.
_STAGE = ".stage"
#: Seconds to wait for a worker to write its stack, and between two looks.
_PATIENCE, _LOOK = 1.0, 0.02
#: The first words of a stack.
_STACK = ("Current thread 0x", "Thread 0x")


class Announcer:
    """A worker's side: keeps its stage in a file beside its log, and writes its stack there on SIGUSR1."""

    def __init__(self, log: str) -> None:
        self._file = -1
        if log:
            self._file = os.open(log + _STAGE, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            faulthandler.register(signal.SIGUSR1, file=2, all_threads=True)

    def __call__(self, stage: str) -> None:
        """Record the stage that begins now; a worker without a log has nowhere to."""
        if self._file >= 0:
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, f"{time.monotonic():.3f} {stage}".encode(), 0)


def stage_of(log: str) -> tuple[str, float] | None:
    """Return a worker's stage and the seconds since it began; None for a worker elsewhere and before the first."""
    try:
        since, _, stage = Path(log + _STAGE).read_text(encoding="utf-8").partition(" ")
        return stage, max(0.0, time.monotonic() - float(since))
    except (OSError, ValueError):
        return None


def stack_of(pid: int, log: str) -> str:
    """Return the Python stacks of a worker on this machine, also of one that is stuck in native code; empty elsewhere.

    The worker is not stopped by it.
    """
    before = log_tail(log)
    if before is None or not Path(log + _STAGE).exists():
        return ""
    try:
        os.kill(pid, signal.SIGUSR1)
    except OSError:
        return ""
    until = time.monotonic() + _PATIENCE
    while time.monotonic() < until:
        time.sleep(_LOOK)
        now = log_tail(log) or ""
        if now != before:
            time.sleep(_LOOK)  # for the rest of it
            written = (log_tail(log) or "").removeprefix(before)
            return written[max(0, min(map(written.find, _STACK))) :].strip()
    return ""
