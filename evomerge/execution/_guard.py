"""What a bench is, and how it is run so that whatever a candidate does ends in an outcome."""

import traceback
from typing import Protocol

from evomerge.trial import Failure, Outcome, Trial


class Bench(Protocol):
    """Runs trials one at a time; holds what all of them need, such as resident weights."""

    def run(self, trial: Trial) -> Outcome:
        """Score a trial."""


def run_guarded(bench: Bench, trial: Trial) -> Outcome:
    """The outcome of a trial; an exception that leaves the bench is a failure named after its type."""
    try:
        return bench.run(trial)
    except Exception as error:  # noqa: BLE001 - recorded with its traceback
        trace = traceback.format_exc()
        return Outcome(trial.number, failure=Failure(type(error).__name__, str(error), trace))
