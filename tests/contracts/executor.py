"""What every executor must do: one outcome for every trial, whatever happens. Subclass with a fixture `make`."""

import os
import time
from collections.abc import Callable, Iterable

import numpy as np
import pytest

from evaluators.base import Scores
from evomerge.execution.base import Executor, ExecutorError
from evomerge.trial import Outcome, Trial
from tests.waiting import CEILING

Make = Callable[[Callable[[], object]], Executor]


class SmallBench:
    """Scores follow from the point alone; the label says what goes wrong."""

    def __init__(self) -> None:
        self.built_in = os.getpid()

    def run(self, trial: Trial) -> Outcome:
        if trial.label == "raise":
            raise ZeroDivisionError(f"trial {trial.number}")
        if trial.label == "slow":
            time.sleep(0.3)
        assert trial.x is not None
        draws = np.random.default_rng([trial.seed, trial.number]).normal(size=3)
        values = np.sin(trial.x) + draws
        choices = tuple(np.array([value, np.nan]) for value in values)
        return Outcome(trial.number, {"task": Scores(("a", "b", "c"), values, choices)}, seconds={"merge": 0.5})


class UnbuildableBench:
    """Cannot be built, like one whose models are gone."""

    def __init__(self) -> None:
        raise FileNotFoundError("models/base is gone")


def trial(number: int, label: str = "search") -> Trial:
    return Trial(number, np.array([number / 7, 0.1 + 0.2, 1 / 3]), label=label, seed=2**40)


def run_all(executor: Executor, trials: Iterable[Trial]) -> list[Outcome]:
    """Run trials as a search does: a free slot gets a trial at once. Outcomes in order of finishing."""
    waiting = list(trials)
    outcomes: list[Outcome] = []
    running = 0
    deadline = time.monotonic() + CEILING
    while waiting or running:
        while waiting and running < executor.slots:
            executor.submit(waiting.pop(0))
            running += 1
        outcome = executor.next_outcome(timeout=1.0)
        if outcome is not None:
            outcomes.append(outcome)
            running -= 1
        elif time.monotonic() > deadline:
            pytest.fail(f"{running} trials gave no outcome in {CEILING} s.")
    return outcomes


def describe(outcome: Outcome) -> object:
    """An outcome but for where it ran, comparable with ==."""
    scores = {
        task: (s.example_ids, s.values.tobytes(), [row.tobytes() for row in s.choices or ()], s.truncated)
        for task, s in outcome.scores.items()
    }
    return outcome.number, scores, outcome.failure, dict(outcome.seconds), outcome.events


class ExecutorContract:
    def test_every_trial_gives_exactly_one_outcome(self, make: Make) -> None:
        executor = make(SmallBench)
        outcomes = run_all(executor, [trial(number) for number in range(7)])
        assert sorted(outcome.number for outcome in outcomes) == list(range(7))
        assert all(outcome.failure is None and outcome.worker for outcome in outcomes)
        assert executor.next_outcome(timeout=0.1) is None
        assert executor.next_outcome() is None
        executor.close()

    def test_outcomes_are_those_of_the_bench(self, make: Make) -> None:
        executor = make(SmallBench)
        outcomes = {outcome.number: outcome for outcome in run_all(executor, [trial(n) for n in range(4)])}
        bench = SmallBench()
        for number in range(4):
            assert describe(outcomes[number]) == describe(bench.run(trial(number)))
        executor.close()

    def test_an_exception_is_the_failure_of_its_trial(self, make: Make) -> None:
        executor = make(SmallBench)
        labels = ["search", "raise", "search", "raise"]
        outcomes = {outcome.number: outcome for outcome in run_all(executor, map(trial, range(len(labels)), labels))}
        assert [outcomes[number].failure is None for number in range(4)] == [True, False, True, False]
        failure = outcomes[3].failure
        assert failure is not None
        assert failure.kind == "ZeroDivisionError"
        assert failure.message == "trial 3"
        assert "in run" in failure.trace
        assert not outcomes[3].scores
        executor.close()

    def test_never_more_trials_than_slots(self, make: Make) -> None:
        executor = make(SmallBench)
        slots = executor.slots
        for number in range(slots):
            executor.submit(trial(number, "slow"))
        with pytest.raises(ExecutorError, match=f"Trial {slots} "):
            executor.submit(trial(slots))
        numbers = [executor.next_outcome(timeout=None) for _ in range(slots)]
        assert sorted(outcome.number for outcome in numbers if outcome) == list(range(slots))
        executor.close()

    def test_a_bench_that_cannot_be_built_is_an_error_of_the_executor(self, make: Make) -> None:
        with pytest.raises(ExecutorError, match="models/base is gone") as error:
            make(UnbuildableBench)
        assert "\n" not in str(error.value), "the traceback is for --debug"
        assert error.value.__cause__ is not None

    def test_closing_twice_is_harmless_and_final(self, make: Make) -> None:
        executor = make(SmallBench)
        executor.submit(trial(0, "slow"))
        executor.close()
        executor.close()
        with pytest.raises(ExecutorError, match="closed"):
            executor.submit(trial(1))
        assert executor.next_outcome(timeout=0.1) is None
