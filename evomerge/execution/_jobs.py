"""How often a trial runs again when the machine under it fails, and what is noted about it."""

from dataclasses import dataclass, field

from evomerge.records import Failure, Outcome, Trial

#: A trial whose worker died runs again this often: it may be what kills them.
DEATH_RETRIES = 2
#: A trial that ran out of time runs again this often: each costs the whole time.
TIMEOUT_RETRIES = 1


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
