"""The executor contract: where trials run."""

from typing import Protocol

from evomerge.errors import PAUSED, USAGE, EvomergeError
from evomerge.trial import Outcome, Trial


class ExecutorError(EvomergeError):
    """The system that runs trials is broken, independently of any candidate."""

    exit_code = PAUSED


class NoCluster(ExecutorError):
    """The Ray cluster that was named is not running, or cannot be reached from here."""


class ClusterRefused(ExecutorError):
    """A Ray cluster that may not or cannot be joined as configured; trying again does not help."""

    exit_code = USAGE


class Executor(Protocol):
    """Runs up to `slots` trials at once; every submitted trial yields exactly one outcome.

    Example:
        >>> from evomerge.execution.serial import SerialExecutor
        >>> class Doubling:
        ...     def run(self, trial):
        ...         return Outcome(trial.number, seconds={"double": 2.0 * trial.x})
        >>> executor = SerialExecutor(Doubling)
        >>> executor.submit(Trial(number=0, x=1.5))
        >>> executor.next_outcome().seconds
        {'double': 3.0}
        >>> executor.close()
    """

    @property
    def slots(self) -> int:
        """Number of trials that can run at once now; it changes as machines join and leave."""

    def submit(self, trial: Trial) -> None:
        """Start a trial; with other processes, without waiting for it.

        Args:
            trial: The trial; at most `slots` may be running at once.

        Raises:
            ExecutorError: All slots are taken, or the executor is closed.
        """

    def next_outcome(self, timeout: float | None = None) -> Outcome | None:
        """Wait for the next finished trial, in order of completion.

        Args:
            timeout: Maximum wait in seconds; None for no limit.

        Returns:
            The outcome; None if the timeout passed, no trial is running, or a slot became free again.

        Raises:
            ExecutorError: The workers cannot be restored.
        """

    def close(self) -> None:
        """Stop all trials and release all resources; calling it again has no effect."""
