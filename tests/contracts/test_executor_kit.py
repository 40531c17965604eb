"""The kit must fail broken executors: each of these keeps the contract but for one thing."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from evomerge.execution.base import ExecutorError
from evomerge.execution.serial import SerialExecutor
from evomerge.trial import Outcome, Trial
from tests.contracts.executor import ExecutorContract


class Loses(SerialExecutor):
    """Forgets a trial and gives an old outcome for it."""

    last: Outcome | None = None

    def next_outcome(self, timeout: float | None = None) -> Outcome | None:
        outcome = super().next_outcome(timeout)
        self.last = self.last or outcome
        return outcome and (self.last if outcome.number == 3 else outcome)


class GivesTwice(SerialExecutor):
    last: Outcome | None = None

    def next_outcome(self, timeout: float | None = None) -> Outcome | None:
        outcome = super().next_outcome(timeout) or self.last
        self.last = outcome
        return outcome


class Rounds(SerialExecutor):
    def next_outcome(self, timeout: float | None = None) -> Outcome | None:
        outcome = super().next_outcome(timeout)
        if outcome is None:
            return None
        rounded = {
            task: replace(scores, values=scores.values.astype(np.float32)) for task, scores in outcome.scores.items()
        }
        return outcome.changed(scores=rounded)


class HidesFailures(SerialExecutor):
    def next_outcome(self, timeout: float | None = None) -> Outcome | None:
        outcome = super().next_outcome(timeout)
        return None if outcome is None else outcome.changed(failure=None)


class TakesAny(SerialExecutor):
    def submit(self, trial: Trial) -> None:
        self._waiting = None
        super().submit(trial)


class BuildsLate(SerialExecutor):
    def __init__(self, make_bench: Callable[[], object]) -> None:
        try:
            super().__init__(make_bench)  # type: ignore[arg-type]
        except ExecutorError:
            self._waiting, self._closed = None, False


class ClosesOnce(SerialExecutor):
    def close(self) -> None:
        if self._closed:
            raise RuntimeError("closed already")
        super().close()


class NeverCloses(SerialExecutor):
    def close(self) -> None:
        self._waiting = None


@pytest.mark.parametrize(
    ("broken", "check"),
    [
        (Loses, "test_every_trial_gives_exactly_one_outcome"),
        (GivesTwice, "test_every_trial_gives_exactly_one_outcome"),
        (Rounds, "test_outcomes_are_those_of_the_bench"),
        (HidesFailures, "test_an_exception_is_the_failure_of_its_trial"),
        (TakesAny, "test_never_more_trials_than_slots"),
        (BuildsLate, "test_a_bench_that_cannot_be_built_is_an_error_of_the_executor"),
        (ClosesOnce, "test_closing_twice_is_harmless_and_final"),
        (NeverCloses, "test_closing_twice_is_harmless_and_final"),
    ],
)
def test_the_kit_fails_a_broken_executor(broken: type[SerialExecutor], check: str) -> None:
    with pytest.raises((AssertionError, RuntimeError, pytest.fail.Exception)):
        getattr(ExecutorContract(), check)(broken)
    getattr(ExecutorContract(), check)(SerialExecutor)
