"""Checks that the model files and task examples of a study do not change while it runs."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType

from evaluators.base import SPLITS, Evaluator
from evomerge.bench import split_ids
from evomerge.config import SearchConfig
from evomerge.execution.base import Executor, ExecutorError
from evomerge.merging import pins
from evomerge.merging.pins import InputChanged
from evomerge.recipe import Recipe
from evomerge.study import Study, ids_of
from evomerge.trial import Outcome, Trial

#: Example ids by (task, split), in the evaluator's order.
Examples = Mapping[tuple[str, str], tuple[str, ...]]


def examples_of(
    config: SearchConfig,
    evaluators: Mapping[str, Evaluator],
    report_only: Mapping[str, tuple[str, ...]] = MappingProxyType({}),
) -> Examples:
    """The examples of every task on every split, now. report_only: those of the tasks that are only reported."""
    shares, salt = config.split.shares, config.split.salt or ""
    found = {(task, split): split_ids(one, split, shares, salt) for task, one in evaluators.items() for split in SPLITS}
    return found | {(task, "report"): ids for task, ids in report_only.items()}


def pin_models(study: Study, recipe: Recipe, say: Callable[[str], None]) -> pins.Pins:
    """The pins of a study open for writing: compared, or made where it has none. Raises InputChanged."""
    found = pins.compare_models(study, recipe)
    if found is None:
        say("the study has no record of its models' files yet; they are recorded now and compared from here on")
        found = pins.take(pins.input_files(recipe))
    if study.inputs != pins.to_dict(found):
        study.pin(pins.to_dict(found))
    return found


class PinnedExecutor:
    """An executor whose outcomes count only while models and examples are those that the study began with.

    The files' status is asked for before a trial is submitted and before its outcome is handed out; what takes long
    to hash is hashed meanwhile in a thread. Raises InputChanged from `submit` and `next_outcome`.
    """

    def __init__(self, executor: Executor, study: Study, recipe: Recipe, found: pins.Pins, examples: Examples) -> None:
        self._executor = executor
        self._study = study
        self._files = pins.input_files(recipe)
        self._pins = found
        self._examples = {**examples, **scored_on(study)}
        self._trials: dict[int, Trial] = {}
        self._hashed: list[pins.Pins] = []
        self._thread = threading.Thread(target=self._hash, daemon=True)
        if any(pin.sha256 is None for pin in found.values()):
            self._thread.start()

    @property
    def slots(self) -> int:
        """Number of trials that can run at once now."""
        return self._executor.slots

    def submit(self, trial: Trial) -> None:
        """Start a trial."""
        self._check_models()
        self._trials[trial.number] = trial
        self._executor.submit(trial)

    def next_outcome(self, timeout: float | None = None) -> Outcome | None:
        """The next finished trial."""
        try:
            outcome = self._executor.next_outcome(timeout)
        except ExecutorError:
            self._check_models()  # why a worker cannot be built again
            raise
        if outcome is not None:
            self._check_models()
            self._check_examples(outcome)
        return outcome

    def settle(self) -> None:
        """Wait until every file is hashed, and record it. Raises InputChanged."""
        if self._thread.is_alive():
            self._thread.join()
        self._check_models()

    def close(self) -> None:
        """Close the executor."""
        self._executor.close()

    def _hash(self) -> None:
        self._hashed.append(pins.hashed(self._files, self._pins))

    def _check_models(self) -> None:
        if not pins.unchanged(self._files, self._pins):
            self._keep(pins.compare(self._files, self._pins))
        elif self._hashed:
            self._keep(self._hashed.pop())

    def _keep(self, found: pins.Pins) -> None:
        self._pins = found
        self._study.pin(pins.to_dict(found))

    def _check_examples(self, outcome: Outcome) -> None:
        trial = self._trials.pop(outcome.number)
        for task, scores in outcome.scores.items():
            before = self._examples.get((task, trial.split), scores.example_ids)
            if trial.examples is not None:
                before = trial.examples[task]
                if trial.gradient is not None:  # only those that have a loss
                    before = tuple(name for name in before if name in set(scores.example_ids))
            if scores.example_ids != before:
                raise InputChanged(other_examples(task, trial.split, before, scores.example_ids))


@contextmanager
def pausing(study: Study) -> Iterator[None]:
    """Record why a study pauses whose inputs change while the block runs. Raises InputChanged."""
    try:
        yield
    except InputChanged as error:
        study.event("paused", reason=str(error))
        raise


def scored_on(study: Study) -> dict[tuple[str, str], tuple[str, ...]]:
    """Return, by (task, split), the examples that a study is scored on; those that no trial was scored on are left out.

    They are those that were added last, or those of the first trial of each split.
    """
    found: dict[tuple[str, str], tuple[str, ...]] = {}
    if study.growths:
        examples = study.growths[-1].examples
        found = {(task, split): ids for split, by_task in examples.items() for task, ids in by_task.items()}
    for entry in study.told:
        scores = {} if entry.outcome is None else entry.outcome.scores
        for task in scores:
            if (task, entry.trial.split) not in found:
                found[task, entry.trial.split] = ids_of(scores, task)
    return found


def other_examples(task: str, split: str, before: tuple[str, ...], now: tuple[str, ...]) -> str:
    """Explain that a task's examples are not those of the study."""
    same = len(set(before) & set(now))
    how = "in another order" if same == len(before) == len(now) else f"{same} of them the same"
    return (
        f"the examples of task {task!r} differ from those of the study: on the {split} split it had "
        f"{len(before)}, now there are {len(now)}, {how}. Scores on different examples cannot be compared: put the old "
        "examples back, adding only new ones, or begin a new study in another folder (`study`)."
    )
