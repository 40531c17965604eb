"""Mirror: a study followed while another process writes it. It reads what is new, locks nothing, writes nothing."""

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
    """One record that a mirror took in.

    kind: "created", "examples", "asked", "told", or that of an event. at: time of day, UTC, to the second.
    number: of the trial that was asked or told, else None; what it has come to is in `Mirror.study`.
    """

    kind: str
    at: datetime
    number: int | None
    data: Mapping[str, Any]


class Follower:
    """A reader that stays up to date with a ledger; `study` is its state after the last `poll`.

    Raises StudyError when there is no study in the folder.
    """

    def __init__(self, folder: Path) -> None:
        self._path = ledger_of(folder)
        self.study = Study(folder, ())
        self._offset = self._sequence = self._epoch = 0

    def poll(self) -> list[Change]:
        """What was written since the last call, in order.

        A record that is still being written waits for the next call. Raises StudyError for a damaged ledger, and
        when records that were read have been taken back (their writer could not be sure that they were saved).
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
                if record.epoch >= self._epoch:  # else of a writer that was fenced off
                    changes.append(self._take(record))
        return changes

    def _take(self, record: Record) -> Change:
        if record.sequence != self._sequence:
            raise self._taken_back()
        self._sequence += 1
        self._epoch = record.epoch
        self.study.follow(record)
        number = record.data["number"] if record.kind in ("asked", "told") else None
        return Change(record.kind, datetime.fromisoformat(record.wall), number, record.data)

    def _explain(self) -> None:
        if read(self._path).end > self._offset:  # a damaged ledger is refused here
            raise self._taken_back()

    def _taken_back(self) -> StudyError:
        return StudyError(f"{self._path} is not what it was: records that were read before are gone. Start again.")
