"""The bench protocol, and a guard that turns any failure of a candidate into an outcome."""

import traceback
from collections.abc import Callable
from typing import Protocol

from evomerge.trial import Failure, Outcome, Trial


class Bench(Protocol):
    """Runs trials one at a time; holds what they share, such as resident weights.

    entered: set by an executor that wants to know the stage of a trial; called with each stage that begins.
    """

    entered: Callable[[str], None]

    def run(self, trial: Trial) -> Outcome:
        """Score a trial."""


def run_guarded(bench: Bench, trial: Trial) -> Outcome:
    """Run a trial; an exception that leaves the bench becomes a failure named after its type."""
    try:
        return bench.run(trial)
    except Exception as error:  # noqa: BLE001 - recorded with its traceback
        trace = traceback.format_exc()
        return Outcome(trial.number, failure=Failure(type(error).__name__, str(error), trace))
