"""Executor that runs one trial at a time in this process: for laptops, tests and debuggers."""

from collections.abc import Callable

from evomerge.execution._guard import Bench, run_guarded
from evomerge.execution.base import ExecutorError
from evomerge.trial import Outcome, Trial


class SerialExecutor:
    """Runs a trial when its outcome is requested; an interrupted one stays submitted.

    Args:
        make_bench: Builds the bench, once, here.

    Raises:
        ExecutorError: The bench cannot be built.
    """

    def __init__(self, make_bench: Callable[[], Bench]) -> None:
        try:
            self._bench = make_bench()
        except Exception as error:  # plug-ins and models may raise anything
            raise ExecutorError(f"The bench cannot be built: {type(error).__name__}: {error}") from error
        self._waiting: Trial | None = None
        self._closed = False

    @property
    def slots(self) -> int:
        """One."""
        return 1

    def submit(self, trial: Trial) -> None:
        """Keep the trial for `next_outcome`. Raises ExecutorError if one is waiting or the executor is closed."""
        if self._closed:
            raise ExecutorError(f"Trial {trial.number} was submitted to a closed executor.")
        if self._waiting is not None:
            raise ExecutorError(
                f"Trial {trial.number} was submitted while trial {self._waiting.number} occupies the only slot."
            )
        self._waiting = trial

    def next_outcome(self, timeout: float | None = None) -> Outcome | None:  # noqa: ARG002 - not supported here
        """Run the submitted trial to its end, ignoring the timeout; None if there is none."""
        if self._waiting is None:
            return None
        outcome = run_guarded(self._bench, self._waiting)
        self._waiting = None
        return outcome.changed(worker=outcome.worker or "serial")

    def close(self) -> None:
        """Discard the submitted trial."""
        self._waiting = None
        self._closed = True
