"""Both sides of a worker, in its own process and in the driver, and the driver's signal handlers."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from evomerge.execution._death import Death, kernel_kills, log_tail, own_log, why_died
from evomerge.execution._guard import Bench, run_guarded
from evomerge.execution._jobs import Job
from evomerge.execution._stuck import Announcer, stack_of, stage_of
from evomerge.trial import Outcome, Trial


class Actor:
    """The worker's own side: a bench in a separate process.

    Ray puts it into its own process group and blocks SIGINT, so that Ctrl-C in a terminal does not reach it.
    """

    def __init__(self, make_bench: Callable[[], Bench], threads: int, node: Callable[[], str]) -> None:
        self._node = node()
        os.environ["OMP_NUM_THREADS"] = str(threads)  # for torch if the bench imports it
        if "torch" in sys.modules:  # if unpickling `make_bench` has imported it
            sys.modules["torch"].set_num_threads(threads)
        self._bench = make_bench()
        self._bench.entered = Announcer(own_log())

    def ping(self) -> tuple[int, str, str]:
        """Return the process id, its log and its node's id, which shows that the bench is built and idle."""
        return os.getpid(), own_log(), self._node

    def run(self, trial: Trial) -> Outcome:
        """Return the outcome of a trial, whatever the candidate does."""
        return run_guarded(self._bench, trial)


class Worker:
    """The driver's side of a worker.

    pid: None until it is known to be alive. node: the id of the node that it runs on, or ran on when it was lost.
    alive_since: when it last started. call: the pending call; job: None if that is a ping. since: when the job began or
    the worker was lost. Times are by `clock`.
    """

    def __init__(self, name: str, handle: Any, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.name = name
        self.handle = handle
        self.pid: int | None = None
        self.node = ""
        self.alive_since = 0.0
        self._log = ""
        self._kills = 0
        self.call: Any = None
        self.job: Job | None = None
        self.since = 0.0

    def run(self, job: Job) -> None:
        """Start a job."""
        self.call, self.job, self.since = self.handle.run.remote(job.trial), job, self._clock()

    def ping(self) -> None:
        """Check that it is alive and its bench is built."""
        self.call, self.job = self.handle.ping.remote(), None

    def answered(self, pid: int, log: str, node: str) -> None:
        """Record that it is alive."""
        self.pid, self._log, self.node, self._kills = pid, log, node, kernel_kills()
        self.alive_since = self._clock()

    def why_died(self, said: str) -> Death:
        """Return why its process ended. said: the message of Ray's error."""
        return why_died(said, log_tail(self._log), kernel_kills() - self._kills)

    def where(self) -> tuple[str, float] | None:
        """Return the stage of its trial and the seconds since it began; None if unknown, as on another machine."""
        return stage_of(self._log) if self._log else None

    def stack(self) -> str:
        """Return the stacks of its process; empty if unknown, as on another machine."""
        return stack_of(self.pid, self._log) if self._log and self.pid is not None else ""

    def lose(self) -> None:
        """Record that it died, was killed or is unreachable."""
        self.pid = self.call = self.job = None
        self.since = self._clock()


def raised(error: Exception) -> str:
    """Return a worker's error message without the traceback that Ray prepends."""
    lines = str(error).strip().splitlines()
    behind = max((number + 1 for number, line in enumerate(lines) if line.startswith(" ")), default=0)
    return "\n".join(lines[behind:] or lines[-1:]).strip()


@contextmanager
def signal_handlers_kept() -> Iterator[None]:
    """Restore the handlers of SIGINT and SIGTERM that the block changes.

    Ray's SIGTERM handler, active before Ray is up, raises SystemExit; the signal goes to the previous handler instead.
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
