"""The contract of every executor: where trials run."""

from typing import Protocol

from evomerge.errors import PAUSED, EvomergeError
from evomerge.trial import Outcome, Trial


class ExecutorError(EvomergeError):
    """The system that runs trials is broken, through no fault of a candidate."""

    exit_code = PAUSED


class Executor(Protocol):
    """Runs trials in `slots` places at once; every submitted trial gives exactly one outcome."""

    @property
    def slots(self) -> int:
        """How many trials can run at once now; may shrink and grow as machines come and go."""

    def submit(self, trial: Trial) -> None:
        """Start a trial; never more than `slots` at once. Returns at once where there are other processes."""

    def next_outcome(self, timeout: float | None = None) -> Outcome | None:
        """The next finished trial, in order of finishing; None when `timeout` seconds passed without one."""

    def close(self) -> None:
        """Stop whatever runs and give everything back; harmless when called twice."""
