"""The two sides of a worker, in its own process and in the driver's, and the driver's signal handlers."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from evomerge.execution._death import kernel_kills, log_tail, own_log, why_died
from evomerge.execution._guard import Bench, run_guarded
from evomerge.execution._jobs import Job
from evomerge.trial import Outcome, Trial


class Actor:
    """The worker's side of a worker: a bench in a process of its own.

    Ray gives it a process group of its own and blocks SIGINT, so that Ctrl-C in a terminal leaves it alone.
    """

    def __init__(self, make_bench: Callable[[], Bench], threads: int) -> None:
        os.environ["OMP_NUM_THREADS"] = str(threads)  # for a torch that the bench imports
        if "torch" in sys.modules:  # for one that unpickling `make_bench` has imported
            sys.modules["torch"].set_num_threads(threads)
        self._bench = make_bench()

    def ping(self) -> tuple[int, str]:
        """The process id and its log; an answer means that the bench is built and nothing runs."""
        return os.getpid(), own_log()

    def run(self, trial: Trial) -> Outcome:
        """The outcome of a trial, whatever the candidate does."""
        return run_guarded(self._bench, trial)


class Worker:
    """The driver's side of a worker.

    pid: None while it is not known to be alive. call: what it does now; job: None when that is a ping.
    since: when the job began or the worker was lost, by `clock`.
    """

    def __init__(self, name: str, handle: Any, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.name = name
        self.handle = handle
        self.pid: int | None = None
        self._log = ""
        self._kills = 0
        self.call: Any = None
        self.job: Job | None = None
        self.since = 0.0

    def run(self, job: Job) -> None:
        """Start a job."""
        self.call, self.job, self.since = self.handle.run.remote(job.trial), job, self._clock()

    def ping(self) -> None:
        """Ask whether it is alive and its bench is built."""
        self.call, self.job = self.handle.ping.remote(), None

    def answered(self, pid: int, log: str) -> None:
        """Note that it is alive."""
        self.pid, self._log, self._kills = pid, log, kernel_kills()

    def why_died(self, said: str) -> str:
        """What ended its process. said: the message of Ray's error."""
        return why_died(said, log_tail(self._log), kernel_kills() - self._kills)

    def lose(self) -> None:
        """Note that it died, was killed or cannot be reached."""
        self.pid = self.call = self.job = None
        self.since = self._clock()


def raised(error: Exception) -> str:
    """What a worker raised, without the traceback that Ray writes before it."""
    lines = str(error).strip().splitlines()
    behind = max((number + 1 for number, line in enumerate(lines) if line.startswith(" ")), default=0)
    return "\n".join(lines[behind:] or lines[-1:]).strip()


@contextmanager
def signal_handlers_kept() -> Iterator[None]:
    """Undo what the block does to the handlers of SIGINT and SIGTERM.

    Ray's handler of SIGTERM, in force before Ray is up, raises SystemExit; the signal goes to the kept handler instead.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    terminated = False
    try:
        yield
    except SystemExit:
        terminated = True
        raise
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if terminated:
            signal.raise_signal(signal.SIGTERM)
