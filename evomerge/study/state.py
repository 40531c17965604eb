"""The state of a study, accumulated from records. Replaying a ledger gives the state that its writer had."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from evomerge.study.codec import read_learned, read_told, read_trial
from evomerge.study.example_lists import ExampleLists
from evomerge.study.lines import UNREADABLE, Record, StudyError
from evomerge.trial import Origin, Outcome, Trial, Value

#: 3 packs numbers and subsets of examples, 2 has trials that score only some examples. Records of all of them
#: are read, and a study of an earlier schema that is resumed has later records of the newest.
SCHEMA = 3

#: Kinds of records that define the state; a record of any other kind is an event.
STATE_KINDS = ("created", "inputs", "examples", "asked", "told", "grown", "learned")


class Entry(Value, frozen=True, eq=False):
    """One trial of a study. told_at: the number of whole trials told before it, from 0; None while it is pending.

    losses: one per objective; None for a failure and for trials hidden from the optimizer.
    active: seconds that the study had run when it was told.
    """

    trial: Trial
    outcome: Outcome | None = None
    losses: tuple[float, ...] | None = None
    told_at: int | None = None
    active: float | None = None


@dataclass(frozen=True, eq=False)
class Learned:
    """A scored trial of an earlier study, copied when this one began. It is none of this study's trials.

    entry: with a negative number, in the space of this study. observed: whether it is an observation for the optimizer.
    reused: whether its scores stand for those of the same model here.
    """

    entry: Entry
    observed: bool
    reused: bool


@dataclass(frozen=True, eq=False)
class Growth:
    """A point at which examples were added to the tasks: what was whole before is a part of the new whole.

    old: task -> ids of the search split before. examples: split -> task -> ids after. extends: numbers of the trials of
    before that are scored on the added examples. before: all trials that had ended, in order, as they were then.
    events: how many there were.
    """

    old: Mapping[str, tuple[str, ...]]
    examples: Mapping[str, Mapping[str, tuple[str, ...]]]
    extends: tuple[int, ...]
    before: tuple[Entry, ...]
    events: int

    @property
    def new(self) -> Mapping[str, tuple[str, ...]]:
        """Task -> ids of the search split after."""
        return self.examples["search"]

    @property
    def share(self) -> float:
        """The share of the examples of after that there were before."""
        return sum(map(len, self.old.values())) / sum(map(len, self.new.values()))


class State:
    """The state of a study after some records; `apply` adds the next one.

    entries, told: whole trials; parts: the others, by number; ended: all that were told, in order. examples: lists of
    example ids, by the number that refers to them in scores. unfinished: numbers of the trials that were not told.
    cost: of the trials that the budget counts. learned: trials of earlier studies, by their negative numbers.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.configuration: Mapping[str, Any] = MappingProxyType({})
        self.environment: Mapping[str, Any] = MappingProxyType({})
        self.inputs: Mapping[str, Any] | None = None
        self.entries: dict[int, Entry] = {}
        self.told: list[Entry] = []
        self.parts: dict[int, Entry] = {}
        self.learned: dict[int, Learned] = {}
        self.ended: list[Entry] = []
        self.events: list[tuple[str, Mapping[str, Any]]] = []
        self.growths: list[Growth] = []
        self._n_told = 0
        self.examples = ExampleLists()
        self.active_seconds = 0.0
        self.unfinished: set[int] = set()
        self.next_number = 0
        self.cost = 0.0

    def apply(self, record: Record) -> None:
        """Add one record. Raises StudyError for the schema of a newer evomerge, and for data that cannot be read."""
        try:
            self._apply(record)
        except StudyError:
            raise
        except UNREADABLE as error:
            raise StudyError(
                f"Record {record.sequence} ({record.kind!r:.40}) of the study in {self.folder} cannot be read although "
                f"its checksum is right: {error!r:.200}. No evomerge wrote it so; restore the ledger from a copy."
            ) from error

    def _apply(self, record: Record) -> None:
        self.active_seconds, kind = record.active, record.kind
        if kind == "told":
            self._tell(*read_told(record.data, self.examples), record.active)
        elif kind == "asked":
            self._ask(read_trial(record.data, self.examples))
        elif kind == "created":
            self._create(record.fields)
        elif kind == "inputs":
            self.inputs = MappingProxyType(record.fields["files"])
        elif kind == "examples":
            self.examples.add(record.fields)
        elif kind == "grown":
            self._grow(record.fields)
        elif kind == "learned":
            self._learn(*read_learned(record.data, self.examples))
        else:
            self.events.append((kind, MappingProxyType(record.fields)))

    def asked(self, number: int) -> Entry:
        """Return a whole trial or a part. Raises KeyError for a number that was never asked."""
        return self.parts[number] if number in self.parts else self.entries[number]

    def _create(self, data: Mapping[str, Any]) -> None:
        if data["schema"] > SCHEMA:
            raise StudyError(
                f"The study in {self.folder} has schema {data['schema']}; this evomerge reads schemas up to "
                f"{SCHEMA}. Update evomerge to continue it."
            )
        self.configuration = MappingProxyType(data["configuration"])
        self.environment = MappingProxyType(data["environment"])
        if "inputs" in data:
            self.inputs = MappingProxyType(data["inputs"])

    def _ask(self, trial: Trial) -> None:
        number = trial.number
        (self.entries if trial.examples is None else self.parts)[number] = Entry(trial)
        self.unfinished.add(number)
        if number >= self.next_number:
            self.next_number = number + 1
        if trial.counts:
            self.cost += trial.cost

    def _tell(self, outcome: Outcome, losses: tuple[float, ...] | None, active: float) -> None:
        number = outcome.number
        part = number in self.parts
        trials = self.parts if part else self.entries
        trials[number] = entry = Entry(trials[number].trial, outcome, losses, self._n_told, active)
        self.unfinished.discard(number)
        self.ended.append(entry)
        if not part:
            self.told.append(entry)
            self._n_told += 1
        for event in outcome.events:
            rest = {key: value for key, value in event.items() if key != "event"}
            self.events.append((str(event["event"]), MappingProxyType(rest)))

    def _learn(self, trial: Trial, outcome: Outcome, observed: bool, reused: bool) -> None:
        self.learned[trial.number] = Learned(Entry(trial, outcome), observed, reused)

    @property
    def _searched(self) -> Mapping[str, tuple[str, ...]]:
        """The examples of the search split: those that were added last, or those of the first whole trial."""
        if self.growths:
            return self.growths[-1].new
        outcomes = (entry.outcome for entry in self.told if entry.trial.split == "search" and entry.losses is not None)
        first = next((outcome for outcome in outcomes if outcome is not None), None)
        return {} if first is None else {task: scores.example_ids for task, scores in first.scores.items()}

    def _grow(self, data: Mapping[str, Any]) -> None:
        """Turn all trials but the canary into parts: they were scored on examples that are no longer all."""
        self.configuration = MappingProxyType({**self.configuration, "tasks": data["tasks"]})
        examples = {
            split: {task: tuple(ids) for task, ids in by_task.items()} for split, by_task in data["examples"].items()
        }
        growth = Growth(self._searched, examples, tuple(data["extends"]), tuple(self.ended), len(self.events))
        self.growths.append(growth)
        kept = {number: entry for number, entry in self.entries.items() if entry.trial.origin is Origin.CANARY}
        for entry in (*self.entries.values(), *self.parts.values()):
            if entry.trial.number not in kept:
                self.parts[entry.trial.number] = _before(entry, growth.share)
        self.parts = dict(sorted(self.parts.items()))
        self.ended = [kept.get(n) or self.parts[n] for n in (entry.trial.number for entry in self.ended)]
        self.entries = kept
        self.told = [entry for entry in self.told if entry.trial.number in kept]
        self.unfinished &= {number for number, entry in kept.items() if entry.told_at is None}
        self.cost = sum(entry.trial.cost for entry in self.parts.values() if entry.trial.counts)
        self.events.append(("grown", MappingProxyType(dict(data))))


def _before(entry: Entry, share: float) -> Entry:
    """Return a trial as a part of the grown split; one that has not ended is given up, and has cost nothing.

    share: that of the examples that it could be scored on.
    """
    scores = {} if entry.outcome is None else entry.outcome.scores
    examples = entry.trial.examples
    if examples is None:
        examples = {task: of_task.example_ids for task, of_task in scores.items()}
    ended = entry.told_at is not None
    trial = entry.trial.changed(examples=examples, cost=entry.trial.cost * share if ended else 0.0)
    return entry.changed(trial=trial, losses=None, told_at=entry.told_at if ended else -1)
