"""The state of a study, accumulated from records. Replaying a ledger gives the state that its writer had."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from evomerge.study.codec import outcome_from_dict, trial_from_dict
from evomerge.study.lines import Record, StudyError
from evomerge.trial import Outcome, Trial

#: 2 has trials that score only some examples; ledgers of 1 are read as they are.
SCHEMA = 2

#: Kinds of records that define the state; a record of any other kind is an event.
STATE_KINDS = ("created", "inputs", "examples", "asked", "told")


@dataclass(frozen=True, eq=False)
class Entry:
    """One trial of a study. told_at: the number of whole trials told before it, from 0; None while it is pending.

    losses: one per objective; None for a failure and for trials hidden from the optimizer.
    active: seconds that the study had run when it was told.
    """

    trial: Trial
    outcome: Outcome | None = None
    losses: tuple[float, ...] | None = None
    told_at: int | None = None
    active: float | None = None


class State:
    """The state of a study after some records; `apply` adds the next one.

    entries, told: whole trials; parts: the others, by number; ended: all that were told, in order. examples: lists of
    example ids, by the number that refers to them in scores; example_numbers: the reverse.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.configuration: Mapping[str, Any] = MappingProxyType({})
        self.environment: Mapping[str, Any] = MappingProxyType({})
        self.inputs: Mapping[str, Any] | None = None
        self.entries: dict[int, Entry] = {}
        self.told: list[Entry] = []
        self.parts: dict[int, Entry] = {}
        self.ended: list[Entry] = []
        self.events: list[tuple[str, Mapping[str, Any]]] = []
        self.examples: list[tuple[str, ...]] = []
        self.example_numbers: dict[tuple[str, tuple[str, ...]], int] = {}
        self.active_seconds = 0.0

    def apply(self, record: Record) -> None:
        """Add one record. Raises StudyError for the schema of a newer evomerge."""
        self.active_seconds = record.active
        if record.kind == "created":
            self._create(record.data)
        elif record.kind == "inputs":
            self.inputs = MappingProxyType(record.data["files"])
        elif record.kind == "examples":
            ids = tuple(record.data["ids"])
            self.example_numbers[record.data["task"], ids] = len(self.examples)
            self.examples.append(ids)
        elif record.kind == "asked":
            trial = trial_from_dict(record.data, self.examples)
            (self.parts if trial.is_part else self.entries)[trial.number] = Entry(trial)
        elif record.kind == "told":
            self._tell(record.data, record.active)
        else:
            self.events.append((record.kind, MappingProxyType(dict(record.data))))

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

    def _tell(self, data: Mapping[str, Any], active: float) -> None:
        outcome = outcome_from_dict(data, self.examples)
        losses = None if data["losses"] is None else tuple(data["losses"])
        asked = self.asked(outcome.number)
        part = asked.trial.is_part
        entry = replace(asked, outcome=outcome, losses=losses, told_at=len(self.told), active=active)
        (self.parts if part else self.entries)[outcome.number] = entry
        self.ended.append(entry)
        if not part:
            self.told.append(entry)
        for event in outcome.events:
            rest = {key: value for key, value in event.items() if key != "event"}
            self.events.append((str(event["event"]), MappingProxyType(rest)))
