"""Time limits of trials, retries after machine failures, and the events recorded about them."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median
from types import MappingProxyType

from evomerge.trial import Failure, Outcome, Trial

#: Retries of a trial whose worker died; few, since the trial may be the cause.
DEATH_RETRIES = 2
#: Retries of a trial that timed out; each costs the whole time limit.
TIMEOUT_RETRIES = 1
#: Without a limit from the user, a trial times out after this many times the median duration, but at least FLOOR.
MEDIANS = 10
#: Minimum time limit, in seconds.
FLOOR = 600.0
#: Trials that must have finished before their median is used.
ENOUGH = 5
NO_STAGES: Mapping[str, float] = MappingProxyType({})


class Deadline:
    """The time limit of a trial. given: seconds set by the user; None: see MEDIANS."""

    def __init__(self, given: float | None = None) -> None:
        self._given = given
        self._taken: deque[float] = deque(maxlen=100)
        self._stages: dict[str, deque[float]] = {}

    def note(self, seconds: float, stages: Mapping[str, float] = NO_STAGES) -> None:
        """Record the duration of a finished whole trial, and of its stages."""
        self._taken.append(seconds)
        for stage, taken in stages.items():
            self._stages.setdefault(stage, deque(maxlen=100)).append(taken)

    def describe(self, stage: str, seconds: float) -> str:
        """Describe how long a trial has been in a stage: `for 1900 s in 'evaluate:gsm8k', which takes 6.2 s`."""
        usual = self._stages.get(stage)
        text = f"for {seconds:.0f} s in {stage!r}"
        return text if not usual else f"{text}, which usually takes {median(usual):.3g} s"

    @property
    def seconds(self) -> float | None:
        """Return the current time limit in seconds; None while it is unknown."""
        if self._given is not None:
            return self._given
        return max(FLOOR, MEDIANS * median(self._taken)) if len(self._taken) >= ENOUGH else None


@dataclass
class Job:
    """A submitted trial without an outcome yet."""

    trial: Trial
    deaths: int = 0
    timeouts: int = 0
    events: list[dict[str, object]] = field(default_factory=list)

    def worker_died(self, worker: str, reason: str) -> Outcome | None:
        """Record that a worker died running the trial; return the outcome if there is no retry left."""
        self.deaths += 1
        self._note("worker_died", self.deaths, worker, reason)
        if self.deaths <= DEATH_RETRIES:
            return None
        return self.failed("worker_died", f"{self.deaths} workers died while they ran this trial: {reason}")

    def preempted(self, worker: str, node: str) -> None:
        """Record that the worker's node was preempted or lost, which is unrelated to the trial."""
        self._note("preempted", self.deaths, worker, f"its node {node} was preempted or lost".replace("  ", " "))

    def timed_out(self, worker: str, seconds: float, where: str = "", stack: str = "") -> Outcome | None:
        """Record that the trial ran longer than `seconds`; return the outcome if there is no retry left.

        where: the stage that it was in. stack: of its worker.
        """
        self.timeouts += 1
        reason = f"no outcome after {seconds:g} s" + (f", {where}" if where else "")
        self._note("timeout", self.timeouts, worker, reason)
        if self.timeouts <= TIMEOUT_RETRIES:
            return None
        return self.failed("timeout", f"{reason}, {self.timeouts} times", stack)

    def fewer_workers(self, worker: str, reason: str) -> None:
        """Record that the number of workers was lowered after this trial's worker died."""
        self._note("fewer_workers", self.deaths, worker, reason)

    def failed(self, kind: str, message: str, trace: str = "") -> Outcome:
        """Return a failure as the outcome."""
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
