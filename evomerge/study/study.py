"""Study: the single source of truth of a run. A ledger of asks, outcomes and events, whose replay is its state."""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from types import MappingProxyType
from typing import Any

from evomerge.durable import OutputError, free_space
from evomerge.study.changes import ConfigurationChanged, differences
from evomerge.study.codec import outcome_to_dict, trial_to_dict
from evomerge.study.lines import (
    FILE,
    SEARCH_FILE,
    Record,
    StudyBusy,
    StudyError,
    StudyExists,
    StudyPaused,
    encode,
    no_collection,
    parse,
    read,
)
from evomerge.study.state import SCHEMA, STATE_KINDS, Entry, Growth, Learned, State
from evomerge.study.writer import Files, Ledger
from evomerge.text.masking import masked_data
from evomerge.trial import Outcome, Trial

__all__ = [
    "SEARCH_FILE",
    "ConfigurationChanged",
    "Entry",
    "Growth",
    "Learned",
    "Resumed",
    "Study",
    "StudyBusy",
    "StudyError",
    "StudyExists",
    "StudyPaused",
]

#: Event that records from which earlier studies this one learned when it began.
LEARNED_FROM = "learned_from"
#: Events that record why a session ended early.
ENDINGS = ("paused", "stopped")


@dataclass(frozen=True)
class Resumed:
    """Findings on opening a study for writing.

    completed: see `Study.completed`. died: trials that ran when the last session ended unexpectedly.
    """

    completed: int
    pending: int
    torn_bytes: int
    died: tuple[int, ...] = ()

    def __str__(self) -> str:
        dropped = f", dropped {self.torn_bytes} bytes of an unfinished record" if self.torn_bytes else ""
        return f"{self.completed} completed, {self.pending} re-queued{dropped}{self._how_it_ended()}"

    def _how_it_ended(self) -> str:
        if not self.died:
            return ""
        trials = f"trial{'s' * (len(self.died) > 1)} {', '.join(map(str, self.died))}"
        return (
            f". The last session ended unexpectedly while {trials} ran: it was killed, ran out of memory, or crashed "
            "in native code (then see its stderr)"
        )


class Study:
    """A study in a folder, made by `create`, continued by `open` and watched by `read`.

    Attributes:
        folder: Folder of the study.
        resumed: Findings of `open`; None for a new study and for a reader.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> folder = Path(tempfile.mkdtemp())
        >>> study = Study.create(folder, configuration={"optimizer": "random"}, environment={})
        >>> study.ask(Trial(number=0, x=np.array([0.5])))
        >>> study.tell(Outcome(number=0), losses=[0.25])
        True
        >>> study.close()
        >>> Study.read(folder).told[0].losses
        (0.25,)
    """

    def __init__(
        self,
        folder: Path,
        records: Iterable[Record],
        writer: Ledger | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.folder = folder
        self.resumed: Resumed | None = None
        self._writer = writer
        self._reserved = True
        self._batching = False
        self._state = _replayed(folder, records)
        self._clock = clock
        self._began = clock() - self._state.active_seconds

    @classmethod
    def create(
        cls,
        folder: Path,
        configuration: Mapping[str, Any],
        environment: Mapping[str, Any],
        *,
        inputs: Mapping[str, Any] | None = None,
        search_file: str | None = None,
        files: Files | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> "Study":
        """Create a study, as its only writer.

        Args:
            folder: Folder for the study; it must not contain one.
            configuration: The search's configuration, as plain data.
            environment: Versions and machine, as plain data.
            inputs: Fingerprints of the models' files.
            search_file: Text of the search file, saved in the folder before the study exists.
            files: System calls for writing; for tests.
            clock: Returns monotonic seconds.

        Returns:
            The study, open for writing.

        Raises:
            StudyExists: The folder already contains a study.
            StudyPaused: The folder cannot be written.
        """
        data = {"schema": SCHEMA, "configuration": dict(configuration), "environment": dict(environment)}
        if inputs is not None:
            data["inputs"] = dict(inputs)
        beside = {} if search_file is None else {SEARCH_FILE: search_file}
        with _explained(folder):
            writer, first = Ledger.create(folder, "created", data, files or Files(), beside)
        return cls(folder, [first], writer, clock)

    @classmethod
    @no_collection()
    def open(
        cls,
        folder: Path,
        configuration: Mapping[str, Any] | None = None,
        *,
        files: Files | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> "Study":
        """Continue a study, as its only writer.

        Args:
            folder: Folder of the study.
            configuration: Configuration that the study must have; None accepts any.
            files: System calls for writing; for tests.
            clock: Returns monotonic seconds.

        Returns:
            The study, open for writing; `resumed` holds the findings.

        Raises:
            StudyBusy: Another process is writing to it.
            ConfigurationChanged: The study has another configuration.
            StudyError: There is no study, it is damaged, or a newer evomerge wrote it.
        """
        with _explained(folder):
            writer, contents = Ledger.open(folder, files or Files())
        try:
            study = cls(folder, contents.records, writer, clock)
            if configuration is not None:
                study.compare(configuration)
            study.resumed = Resumed(study.completed, len(study.unfinished), contents.torn_bytes, study._died())
            study.event("opened", torn_bytes=contents.torn_bytes)
        except BaseException:
            writer.close()
            raise
        return study

    @classmethod
    @no_collection()
    def read(cls, folder: Path) -> "Study":
        """Read the current state of a study, without writing; its writer may continue meanwhile."""
        return cls(folder, read(folder / FILE).records)

    def follow(self, record: Record) -> None:
        """Apply one record that another process wrote. Raises StudyError for a study open for writing."""
        if self._writer is not None:
            raise StudyError(f"The study in {self.folder} is open for writing; only a reader follows another one.")
        self._state.apply(record)

    @property
    def configuration(self) -> Mapping[str, Any]:
        """The configuration that the study was created with."""
        return self._state.configuration

    @property
    def environment(self) -> Mapping[str, Any]:
        """Versions and machine at the study's creation."""
        return self._state.environment

    @property
    def inputs(self) -> Mapping[str, Any] | None:
        """Fingerprints of the models' files; None in studies of versions that did not record them."""
        return self._state.inputs

    @property
    def entries(self) -> Mapping[int, Entry]:
        """All whole trials by number, in the order they were asked; see `parts` for the others."""
        return MappingProxyType(self._state.entries)

    @property
    def completed(self) -> int:
        """Number of trials that the budget counts and that have ended, with scores or a failure."""
        return sum(entry.trial.counts for entry in self._state.told)

    @property
    def parts(self) -> Mapping[int, Entry]:
        """Trials that score only some examples or ask for a gradient, by number, in the order they were asked."""
        return MappingProxyType(self._state.parts)

    @property
    def ended(self) -> list[Entry]:
        """All told trials, whole ones and parts, in the order they were told."""
        return list(self._state.ended)

    @property
    def told(self) -> list[Entry]:
        """The told whole trials, in the order they were told."""
        return list(self._state.told)

    @property
    def pending(self) -> list[Trial]:
        """Whole trials that were asked but not told, in the order they were asked."""
        return [entry.trial for entry in self._state.entries.values() if entry.told_at is None]

    @property
    def unfinished(self) -> list[Trial]:
        """Whole trials and parts that were asked but not told, by number."""
        return [self._state.asked(number).trial for number in sorted(self._state.unfinished)]

    @property
    def events(self) -> list[tuple[str, Mapping[str, Any]]]:
        """All events in order: those recorded by `event`, and those that came with outcomes."""
        return list(self._state.events)

    @property
    def growths(self) -> list[Growth]:
        """The points at which examples were added to the tasks, in order."""
        return list(self._state.growths)

    @property
    def learned(self) -> tuple[Learned, ...]:
        """Trials of earlier studies that were copied when this one began, in order; none of its own."""
        return tuple(self._state.learned.values())

    @property
    def reusable(self) -> list[Entry]:
        """Learned trials whose scores stand for those of the same model; none since examples were added."""
        return [] if self.growths else [each.entry for each in self.learned if each.reused]

    @property
    def ended_since(self) -> list[Entry]:
        """All told trials, whole ones and parts, since examples were last added, in the order they were told."""
        before = len(self._state.growths[-1].before) if self._state.growths else 0
        return self._state.ended[before:]

    @property
    def events_since(self) -> list[tuple[str, Mapping[str, Any]]]:
        """All events since examples were last added, in order."""
        before = self._state.growths[-1].events if self._state.growths else 0
        return self._state.events[before:]

    @property
    def next_number(self) -> int:
        """Number for the next trial."""
        return self._state.next_number

    @property
    def cost(self) -> float:
        """Cost of the trials that the budget counts, told or not, in evaluations of the whole search split."""
        return self._state.cost

    @property
    def active_seconds(self) -> float:
        """Seconds that writers have run, over all sessions, by monotonic clocks; for budgets."""
        return self._state.active_seconds if self._writer is None else self._clock() - self._began

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Save the records made inside at its end, all or none: the disk is waited for once. Act on them only then.

        Raises StudyPaused if the disk refuses; the study is then what it was before.
        """
        self._batching = True
        try:
            yield
        finally:
            self._batching = False
            try:
                self._save("the last records were")
            except BaseException:
                self._state = _replayed(self.folder, read(self.folder / FILE).records)
                raise
            self._check_reserve()

    def ask(self, trial: Trial) -> None:
        """Record a trial before it is submitted; it is durable on return, in a `batch` at the batch's end.

        Args:
            trial: The trial, with a new number.

        Raises:
            StudyError: The number was asked before.
            StudyPaused: The disk is full.
        """
        if self._asked(trial.number) is not None:
            raise StudyError(f"Trial {trial.number} was asked before; the next number is {self.next_number}.")
        self._add("asked", trial_to_dict(trial, self._example_number))

    def tell(self, outcome: Outcome, losses: Sequence[float] | None) -> bool:
        """Record an outcome; it is durable on return, in a `batch` at the batch's end.

        Args:
            outcome: Scores or failure of a trial that was asked.
            losses: Finite losses for the optimizer, (n_objectives,); None for a failure or a trial hidden from it.

        Returns:
            False if the trial was told before; then only an event is recorded.

        Raises:
            StudyError: The number was never asked, or the losses are not finite or belong to a failure.
            StudyPaused: The disk is full.
        """
        entry = self._asked(outcome.number)
        if entry is None:
            raise StudyError(f"Trial {outcome.number} has an outcome but was never asked for; call `ask` first.")
        if entry.told_at is not None:
            self.event("duplicate", number=outcome.number, worker=outcome.worker)
            return False
        if losses is not None and (outcome.failure is not None or not all(map(isfinite, losses))):
            failed = "a failure and " if outcome.failure else ""
            raise StudyError(
                f"Trial {outcome.number} has {failed}the losses {list(losses)}; "
                "expected finite numbers, or None for a failure."
            )
        data = outcome_to_dict(outcome, self._example_number)
        data["events"] = masked_data(data["events"])
        data["losses"] = None if losses is None else [float(loss) for loss in losses]
        self._add("told", data)
        return True

    def learn(self, learned: Iterable[Learned], **said: Any) -> None:
        """Copy trials of earlier studies, all of them or none, with a `learned_from` event about them.

        Args:
            learned: The trials, with negative numbers.
            said: Fields of the event.

        Raises:
            StudyPaused: The disk is full.
        """
        with self.batch():
            for each in learned:
                entry, outcome = each.entry, each.entry.outcome
                if outcome is None or entry.trial.number >= 0:
                    raise StudyError(
                        f"Trial {entry.trial.number} cannot be learned: it needs a negative number and scores."
                    )
                data = {
                    "trial": trial_to_dict(entry.trial, self._example_number),
                    "outcome": outcome_to_dict(outcome, self._example_number),
                    "observed": each.observed,
                    "reused": each.reused,
                }
                self._append("learned", data)
            self.event(LEARNED_FROM, **said)

    def scored(self, number: int) -> Outcome | None:
        """Return the outcome of a trial of this study, or of a learned one by its negative number; None without."""
        learned = self._state.learned.get(number)
        return self.asked(number).outcome if learned is None else learned.entry.outcome

    def asked(self, number: int) -> Entry:
        """Return a whole or partial trial by its number. Raises StudyError if there is none."""
        entry = self._asked(number)
        if entry is None:
            raise StudyError(f"Trial {number} was never asked; the next number is {self.next_number}.")
        return entry

    def _asked(self, number: int) -> Entry | None:
        return self._state.parts.get(number) or self._state.entries.get(number)

    def event(self, kind: str, **data: Any) -> None:
        """Record an event. Raises StudyError for a kind that is reserved for the study itself."""
        if kind in STATE_KINDS:
            raise StudyError(f"An event cannot be named {kind!r}; {', '.join(STATE_KINDS)} are reserved.")
        self._add(kind, masked_data(data))

    def grow(
        self,
        tasks: Mapping[str, Any],
        examples: Mapping[str, Mapping[str, Sequence[str]]],
        extends: Sequence[int],
    ) -> None:
        """Add examples to the tasks: all trials but the canary become parts. A reader does so for itself only.

        Args:
            tasks: The tasks' configuration, as plain data.
            examples: Split -> task -> ids of all examples from now on.
            extends: Numbers of the trials to be scored on the added examples.
        """
        ids = {split: {task: list(names) for task, names in by_task.items()} for split, by_task in examples.items()}
        data = {"tasks": dict(tasks), "examples": ids, "extends": [int(number) for number in extends]}
        if self._writer is None:
            self._state.apply(parse(encode(0, 0, "grown", data, self.active_seconds)))
        else:
            self._add("grown", data)

    def pin(self, inputs: Mapping[str, Any]) -> None:
        """Record the fingerprints of the models' files, as far as they are known now."""
        self._add("inputs", {"files": dict(inputs)})

    def compare(self, configuration: Mapping[str, Any]) -> None:
        """Raise ConfigurationChanged if the study has another configuration."""
        changes = differences(self.configuration, json.loads(json.dumps(dict(configuration))))
        if changes:
            raise ConfigurationChanged(self.folder, changes)

    def close(self) -> None:
        """Release the lock; calling it again has no effect."""
        if self._writer is not None:
            self._writer.close()

    def _died(self) -> tuple[int, ...]:
        """Return the pending trials, unless the last session recorded why it ended."""
        last = next((kind for kind, _ in reversed(self.events) if kind in ("opened", *ENDINGS)), "")
        return () if last in ENDINGS else tuple(trial.number for trial in self.unfinished)

    def _add(self, kind: str, data: Mapping[str, Any]) -> None:
        self._append(kind, data)
        if not self._batching:
            self._check_reserve()

    def _append(self, kind: str, data: Mapping[str, Any]) -> None:
        if self._writer is None:
            raise StudyError(f"The study in {self.folder} is open for reading only.")
        record = self._writer.append(kind, data, self.active_seconds)
        if not self._batching:
            self._save(f"a {kind!r} record was")
        self._state.apply(record)

    def _save(self, what: str) -> None:
        if self._writer is None:
            return
        try:
            self._writer.save()
        except OSError as error:
            why = f"{error.strerror}{free_space(self._writer.path)}; {what} not saved"
            raise StudyPaused(self._why_paused(why)) from error

    def _check_reserve(self) -> None:
        # Raised once, so that running trials can still be saved in the space freed by the reserve.
        if self._reserved and self._writer is not None and not self._writer.has_reserve:
            self._reserved = False
            free = free_space(self._writer.path)
            raise StudyPaused(self._why_paused(f"the disk is full{free}; the last record was still saved"))

    def _why_paused(self, why: str) -> str:
        return (
            f"Cannot write to {self.folder}: {why}. The study is safe (trials completed: {self.completed}). "
            "Free some space, then continue with `evomerge search FILE --resume`."
        )

    def _example_number(self, task: str, ids: tuple[str, ...]) -> int:
        lists = self._state.examples
        number = lists.number(task, ids)
        if number is None:
            number = len(lists)
            self._append("examples", lists.to_dict(task, ids))
        return number


def _replayed(folder: Path, records: Iterable[Record]) -> State:
    state = State(folder)
    for record in records:
        state.apply(record)
    return state


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, OutputError) as error:
        why = f"{error.strerror}{free_space(folder / FILE)}" if isinstance(error, OSError) else str(error)
        raise StudyPaused(
            f"Cannot write to the study in {folder}: {why.rstrip('.')}. Its contents are safe. "
            "Free some space or correct the folder's permissions, then start again."
        ) from error
