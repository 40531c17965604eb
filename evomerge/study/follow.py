"""Follow a study while another process writes it, by reading new records without locks or writes."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from evomerge.study.lines import Record, StudyError, decode, ledger_of, read
from evomerge.study.study import Study


@dataclass(frozen=True)
class Change:
    """One record that a follower has read.

    kind: "created", "examples", "asked", "told", or an event's kind. at: time of day, UTC, to the second.
    number: trial that was asked or told, else None; its state is in `Follower.study`.
    """

    kind: str
    at: datetime
    number: int | None
    data: Mapping[str, Any]


class Follower:
    """A reader that stays up to date with a ledger; `study` is its state after the last `poll`.

    Raises StudyError if there is no study in the folder.
    """

    def __init__(self, folder: Path) -> None:
        self._path = ledger_of(folder)
        self.study = Study(folder, ())
        self._offset = self._sequence = self._epoch = 0

    def poll(self) -> list[Change]:
        """Return the records written since the last call, in order.

        A record that is still being written is left for the next call. Raises StudyError for a damaged ledger, and
        if records read before were withdrawn (their writer could not be sure that they were saved).
        """
        changes: list[Change] = []
        with self._path.open("rb") as file:
            if os.fstat(file.fileno()).st_size < self._offset:
                raise self._taken_back()
            file.seek(self._offset)
            for line in file:
                record = decode(line)
                if record is None:
                    if line.endswith(b"\n") and file.read(1):
                        self._explain()
                    break
                self._offset += len(line)
                if record.epoch >= self._epoch:  # otherwise its writer was fenced off
                    changes.append(self._take(record))
        return changes

    def _take(self, record: Record) -> Change:
        if record.sequence != self._sequence:
            raise self._taken_back()
        self._sequence += 1
        self._epoch = record.epoch
        self.study.follow(record)
        data = record.fields
        number = data["number"] if record.kind in ("asked", "told") else None
        try:
            at = datetime.fromisoformat(record.wall)
        except ValueError as error:
            raise StudyError(f"{self._path}, record {record.sequence}: {error}.") from error
        return Change(record.kind, at, number, data)

    def _explain(self) -> None:
        if read(self._path).end > self._offset:  # raises for a damaged ledger
            raise self._taken_back()

    def _taken_back(self) -> StudyError:
        return StudyError(f"{self._path} has changed: records that were read before are gone. Start again.")
