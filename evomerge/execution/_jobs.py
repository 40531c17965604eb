"""How long a trial may take, how often it runs again when the machine under it fails, and what is noted about it."""

from collections import deque
from dataclasses import dataclass, field
from statistics import median

from evomerge.trial import Failure, Outcome, Trial

#: A trial whose worker died runs again this often: it may be what kills them.
DEATH_RETRIES = 2
#: A trial that ran out of time runs again this often: each costs the whole time.
TIMEOUT_RETRIES = 1
#: Without a time of the user's, a trial hangs after this many times the median trial, and never sooner than FLOOR.
MEDIANS = 10
#: Seconds.
FLOOR = 600.0
#: This many trials must have ended before their median means anything.
ENOUGH = 5


class Deadline:
    """When a trial is taken to hang. given: seconds that the user allows; None: see MEDIANS."""

    def __init__(self, given: float | None = None) -> None:
        self._given = given
        self._taken: deque[float] = deque(maxlen=100)

    def note(self, seconds: float) -> None:
        """Take the time of a trial that ended."""
        self._taken.append(seconds)

    @property
    def seconds(self) -> float | None:
        """Seconds that a trial may take now; None while nothing is known."""
        if self._given is not None:
            return self._given
        return max(FLOOR, MEDIANS * median(self._taken)) if len(self._taken) >= ENOUGH else None


@dataclass
class Job:
    """A submitted trial on its way to an outcome."""

    trial: Trial
    deaths: int = 0
    timeouts: int = 0
    events: list[dict[str, object]] = field(default_factory=list)

    def worker_died(self, worker: str, reason: str) -> Outcome | None:
        """Note that a worker died under the trial; the outcome when it is not to run again."""
        self.deaths += 1
        self._note("worker_died", self.deaths, worker, reason)
        if self.deaths <= DEATH_RETRIES:
            return None
        return self.failed("worker_died", f"{self.deaths} workers died while they ran this trial: {reason}")

    def preempted(self, worker: str) -> None:
        """Note that the worker's node was taken away as announced; that says nothing about the trial."""
        self._note("preempted", self.deaths, worker, "its node was preempted")

    def timed_out(self, worker: str, seconds: float) -> Outcome | None:
        """Note that the trial ran longer than `seconds`; the outcome when it is not to run again."""
        self.timeouts += 1
        reason = f"no outcome after {seconds:g} s"
        self._note("timeout", self.timeouts, worker, reason)
        if self.timeouts <= TIMEOUT_RETRIES:
            return None
        return self.failed("timeout", f"{reason}, {self.timeouts} times")

    def failed(self, kind: str, message: str, trace: str = "") -> Outcome:
        """A failure as the outcome."""
        return Outcome(self.trial.number, failure=Failure(kind, message, trace))

    def _note(self, event: str, attempt: int, worker: str, reason: str) -> None:
        self.events.append(
            {
                "event": event,
                "trial": self.trial.number,
                "attempt": attempt,
                "worker": worker,
                "reason": reason,
            }
        )
