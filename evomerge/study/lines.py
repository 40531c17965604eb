"""The lines of a ledger: JSON records, each with a checksum, and how a file of them is read.

A record is one line that begins with the CRC-32 of the rest of it. A line that was being written when the
process or the machine died is not whole; readers ignore it, and the next writer cuts it off.
"""

import json
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from evomerge.errors import BUSY, PAUSED, EvomergeError

FILE = "ledger.jsonl"
LOCK = "ledger.lock"
#: The copy of the search file that a study keeps in its folder.
SEARCH_FILE = "search.yaml"

_PREFIX = len(b'{"crc32":"00000000",')


class StudyError(EvomergeError):
    """A study that cannot be read or written, or that is used wrongly."""


class StudyExists(StudyError):
    """There is a study in the folder already."""


class StudyBusy(StudyError):
    """Another process writes to the study."""

    exit_code = BUSY


class StudyPaused(StudyError):
    """The disk takes no more; the study is whole and can be resumed. Says whether the record was saved."""

    exit_code = PAUSED


@dataclass(frozen=True)
class Record:
    """One line of a ledger.

    sequence: counts from 0 without holes. epoch: grows with every writer. active: seconds that writers have
    run so far, by monotonic clocks. wall: time of day in UTC, for display only.
    """

    sequence: int
    epoch: int
    kind: str
    data: Mapping[str, Any]
    active: float = 0.0
    wall: str = ""


@dataclass(frozen=True)
class Contents:
    """What a ledger holds: its records, the byte where they end, and how many unfinished bytes follow."""

    records: tuple[Record, ...]
    end: int
    torn_bytes: int


def encode(record: Record) -> bytes:
    """The line of a record, with its newline. Raises StudyError for data that JSON cannot hold."""
    try:
        body = json.dumps(asdict(record), separators=(",", ":"), allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise StudyError(f"A {record.kind!r} record holds something that is not plain data: {error}.") from error
    return b'{"crc32":"%08x",%b\n' % (zlib.crc32(body[1:]), body[1:])


def decode(line: bytes) -> Record | None:
    """The record of a line, or None when the line is not whole."""
    if not line.endswith(b"\n") or line[:_PREFIX] != b'{"crc32":"%08x",' % zlib.crc32(line[_PREFIX:-1]):
        return None
    return parse(line)


def parse(line: bytes) -> Record:
    """The record of a line known to be whole."""
    fields = json.loads(b"{" + line[_PREFIX:])
    return Record(**{name: fields[name] for name in Record.__dataclass_fields__})


def ledger_of(folder: Path) -> Path:
    """The ledger of the study in a folder. Raises StudyError where there is none."""
    if not (folder / FILE).is_file():
        raise StudyError(f"There is no study in {folder}: it has no {FILE}.")
    return folder / FILE


def read(path: Path) -> Contents:
    """All records of a ledger. An unfinished end is not read; records of fenced-off writers are skipped.

    Raises StudyError, naming the line, for a bad record with good ones behind it, and for a missing record.
    """
    if not path.is_file():
        raise StudyError(f"There is no study in {path.parent}: it has no {path.name}.")
    records: list[Record] = []
    end = size = 0
    bad: int | None = None
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            size += len(line)
            record = decode(line)
            if record is None:
                bad = bad or number
            elif bad is not None:
                raise StudyError(
                    f"{path}, line {bad} is damaged (its checksum does not fit), but line {number} is whole: "
                    "this is no unfinished write. Restore the file from a copy; nothing was changed."
                )
            else:
                end = size
                _keep(record, records, path, number)
    return Contents(tuple(records), end, size - end)


def _keep(record: Record, records: list[Record], path: Path, line: int) -> None:
    if records and record.epoch < records[-1].epoch:
        return
    if record.sequence != len(records):
        raise StudyError(f"{path}, line {line} is record {record.sequence}; expected record {len(records)}.")
    records.append(record)
