"""Study: the truth of a run. Asks, outcomes and events in one ledger, whose replay is the study's state."""

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
from evomerge.study.lines import FILE, SEARCH_FILE, Record, StudyBusy, StudyError, StudyExists, StudyPaused, read
from evomerge.study.state import SCHEMA, STATE_KINDS, Entry, State
from evomerge.study.writer import Files, Ledger
from evomerge.text.masking import masked_data
from evomerge.trial import Outcome, Trial

__all__ = [
    "SEARCH_FILE",
    "ConfigurationChanged",
    "Entry",
    "Resumed",
    "Study",
    "StudyBusy",
    "StudyError",
    "StudyExists",
    "StudyPaused",
]

#: Events with which a session says why it ended before its time.
ENDINGS = ("paused", "stopped")


@dataclass(frozen=True)
class Resumed:
    """What opening a study for writing found. died: the trials that ran when the last session ended without a word."""

    told: int
    pending: int
    torn_bytes: int
    died: tuple[int, ...] = ()

    def __str__(self) -> str:
        dropped = f", dropped {self.torn_bytes} bytes of an unfinished record" if self.torn_bytes else ""
        return f"{self.told} done, {self.pending} re-queued{dropped}{self._how_it_ended()}"

    def _how_it_ended(self) -> str:
        if not self.died:
            return ""
        trials = f"trial{'s' * (len(self.died) > 1)} {', '.join(map(str, self.died))}"
        return (
            f". The last session ended without a word while {trials} ran: it was killed, ran out of memory, or crashed "
            "in native code (then its last words are on stderr)"
        )


class Study:
    """A study in a folder: made by `create`, continued by `open`, watched by `read`.

    resumed: what `open` found; None for a new study and for a reader.
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
        self._state = State(folder)
        for record in records:
            self._state.apply(record)
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
        """Begin a study, as its only writer.

        inputs: what the models' files can be told from others by. search_file: a text that is in the folder, on the
        disk, before there is a study. Raises StudyExists when there is one in the folder, StudyPaused when the folder
        cannot be written.
        """
        data = {"schema": SCHEMA, "configuration": dict(configuration), "environment": dict(environment)}
        if inputs is not None:
            data["inputs"] = dict(inputs)
        beside = {} if search_file is None else {SEARCH_FILE: search_file}
        with _explained(folder):
            writer, first = Ledger.create(folder, "created", data, files or Files(), beside)
        return cls(folder, [first], writer, clock)

    @classmethod
    def open(
        cls,
        folder: Path,
        configuration: Mapping[str, Any] | None = None,
        *,
        files: Files | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> "Study":
        """Go on with a study, as its only writer.

        Raises StudyBusy while another process has it; ConfigurationChanged when a configuration is given and
        is not the study's; StudyError when there is none, it is damaged, or a newer evomerge wrote it.
        """
        with _explained(folder):
            writer, contents = Ledger.open(folder, files or Files())
        try:
            study = cls(folder, contents.records, writer, clock)
            if configuration is not None:
                study.compare(configuration)
            study.resumed = Resumed(len(study.told), len(study.pending), contents.torn_bytes, study._died())
            study.event("opened", torn_bytes=contents.torn_bytes)
        except BaseException:
            writer.close()
            raise
        return study

    @classmethod
    def read(cls, folder: Path) -> "Study":
        """The state of a study now, for reading only; its writer may go on meanwhile."""
        return cls(folder, read(folder / FILE).records)

    def follow(self, record: Record) -> None:
        """Go on by one record that another process wrote. Raises StudyError for a study open for writing."""
        if self._writer is not None:
            raise StudyError(f"The study in {self.folder} is open for writing; only a reader follows another writer.")
        self._state.apply(record)

    @property
    def configuration(self) -> Mapping[str, Any]:
        """The configuration that the study was made with."""
        return self._state.configuration

    @property
    def environment(self) -> Mapping[str, Any]:
        """Versions and machine, as they were when the study was made."""
        return self._state.environment

    @property
    def inputs(self) -> Mapping[str, Any] | None:
        """What the models' files can be told from others by; None in studies of versions that did not record it."""
        return self._state.inputs

    @property
    def entries(self) -> Mapping[int, Entry]:
        """Every trial by number, in asking order."""
        return MappingProxyType(self._state.entries)

    @property
    def told(self) -> list[Entry]:
        """The told trials in telling order."""
        return list(self._state.told)

    @property
    def pending(self) -> list[Trial]:
        """Trials asked and not told, in asking order."""
        return [entry.trial for entry in self._state.entries.values() if entry.told_at is None]

    @property
    def events(self) -> list[tuple[str, Mapping[str, Any]]]:
        """What happened, in order: events recorded by `event`, and those that outcomes brought with them."""
        return list(self._state.events)

    @property
    def next_number(self) -> int:
        """The number for the next trial."""
        return max(self._state.entries, default=-1) + 1

    @property
    def active_seconds(self) -> float:
        """Seconds that writers have run, over all sessions, by monotonic clocks; for budgets."""
        return self._state.active_seconds if self._writer is None else self._clock() - self._began

    def ask(self, trial: Trial) -> None:
        """Record a trial before it is submitted; it is durable when this returns.

        Raises StudyError for a number asked before; StudyPaused when the disk is full.
        """
        if trial.number in self._state.entries:
            raise StudyError(f"Trial {trial.number} was asked before; the next number is {self.next_number}.")
        self._check_reserve(self._append("asked", trial_to_dict(trial)))

    def tell(self, outcome: Outcome, losses: Sequence[float] | None) -> bool:
        """Record an outcome; it is durable when this returns. False, and an event, for a number told before.

        Raises StudyError for a number never asked, and for losses that are not finite or belong to a failure;
        StudyPaused when the disk is full.
        """
        entry = self._state.entries.get(outcome.number)
        if entry is None:
            raise StudyError(f"Trial {outcome.number} was told but never asked.")
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
        self._check_reserve(self._append("told", data))
        return True

    def event(self, kind: str, **data: Any) -> None:
        """Record that something happened. Raises StudyError for a kind that the study keeps for itself."""
        if kind in STATE_KINDS:
            raise StudyError(f"An event cannot be named {kind!r}; the study uses {', '.join(STATE_KINDS)} itself.")
        self._check_reserve(self._append(kind, masked_data(data)))

    def pin(self, inputs: Mapping[str, Any]) -> None:
        """Record what the models' files can be told from others by, as far as it is known now."""
        self._check_reserve(self._append("inputs", {"files": dict(inputs)}))

    def compare(self, configuration: Mapping[str, Any]) -> None:
        """Raises ConfigurationChanged for one that is not the study's."""
        changes = differences(self.configuration, json.loads(json.dumps(dict(configuration))))
        if changes:
            raise ConfigurationChanged(self.folder, changes)

    def close(self) -> None:
        """Give up the lock; harmless when called twice."""
        if self._writer is not None:
            self._writer.close()

    def _died(self) -> tuple[int, ...]:
        """The pending trials, unless the last session said why it ended."""
        last = next((kind for kind, _ in reversed(self.events) if kind in ("opened", *ENDINGS)), "")
        return () if last in ENDINGS else tuple(trial.number for trial in self.pending)

    def _append(self, kind: str, data: Mapping[str, Any]) -> bool:
        if self._writer is None:
            raise StudyError(f"The study in {self.folder} is open for reading only.")
        try:
            record = self._writer.append(kind, data, self.active_seconds)
        except OSError as error:
            why = f"{error.strerror}{free_space(self._writer.path)}; a {kind!r} record was not saved"
            raise StudyPaused(self._why_paused(why)) from error
        self._state.apply(record)
        return self._writer.has_reserve

    def _check_reserve(self, reserved: bool) -> None:
        # Told once, so that what is still running can be saved in the space that the reserve gave back.
        if self._reserved and not reserved:
            self._reserved = False
            free = "" if self._writer is None else free_space(self._writer.path)
            raise StudyPaused(self._why_paused(f"the disk is full{free}; the last record was still saved"))

    def _why_paused(self, why: str) -> str:
        return (
            f"Cannot go on writing to {self.folder}: {why}. The study is safe, with {len(self._state.told)} "
            "done. Free some space, then go on with `evomerge search FILE --resume`."
        )

    def _example_number(self, task: str, ids: tuple[str, ...]) -> int:
        if (task, ids) not in self._state.example_numbers:
            self._append("examples", {"task": task, "ids": list(ids)})
        return self._state.example_numbers[task, ids]


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, OutputError) as error:
        why = f"{error.strerror}{free_space(folder / FILE)}" if isinstance(error, OSError) else str(error)
        raise StudyPaused(
            f"Cannot write to the study in {folder}: {why.rstrip('.')}. What it holds is safe. "
            "Free some space or correct the folder's permissions, then start again."
        ) from error
