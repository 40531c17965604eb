"""The lines of a ledger: JSON records with checksums, and the reading of a file of them.

A record is one line that begins with the CRC-32 of its rest. A line interrupted by the death of the process or the
machine is incomplete; readers ignore it, and the next writer cuts it off.
"""

import gc
import json
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from evomerge.errors import BUSY, PAUSED, EvomergeError

FILE = "ledger.jsonl"
LOCK = "ledger.lock"
#: Copy of the search file that a study keeps in its folder.
SEARCH_FILE = "search.yaml"

#: Bytes read at once from a ledger.
_BUFFER = 1 << 20
_PREFIX = len(b'{"crc32":"00000000",')
_TO_JSON = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


class StudyError(EvomergeError):
    """A study that cannot be read or written, or that is misused."""


class StudyExists(StudyError):
    """The folder already contains a study."""


class StudyBusy(StudyError):
    """Another process is writing to the study."""

    exit_code = BUSY


class StudyPaused(StudyError):
    """The disk refuses further writes; the study is intact and can be resumed. Says whether the record was saved."""

    exit_code = PAUSED


class Record(msgspec.Struct, frozen=True):
    """One line of a ledger.

    sequence: consecutive number from 0. epoch: increases with every writer. data: the record's own fields, still JSON:
    most commands look at few of them. active: seconds that writers have run so far, by monotonic clocks. wall: time of
    day in UTC, for display only. batch: sequence of the first record of those that were saved at once; None for that
    first one.
    """

    sequence: int
    epoch: int
    kind: str
    data: msgspec.Raw
    active: float = 0.0
    wall: str = ""
    batch: int | None = None

    @property
    def fields(self) -> dict[str, Any]:
        """The record's own fields by name. Raises ValueError where `data` is no JSON object."""
        return _FIELDS(self.data)


_FIELDS = msgspec.json.Decoder(dict[str, Any]).decode
#: Reads a line and checks the types of its fields: several times as fast as the standard library.
_FROM_JSON = msgspec.json.Decoder(Record).decode
#: Errors of reading plain data that is not as expected.
UNREADABLE = (LookupError, TypeError, ValueError, AttributeError, RecursionError, OverflowError)


@dataclass(frozen=True)
class Contents:
    """Contents of a ledger: its records, the byte offset of their end, and the number of incomplete bytes after it."""

    records: tuple[Record, ...]
    end: int
    torn_bytes: int


def encode(
    sequence: int,
    epoch: int,
    kind: str,
    data: Mapping[str, Any],
    active: float = 0.0,
    wall: str = "",
    batch: int | None = None,
) -> bytes:
    """Encode a record as a line with its newline. Raises StudyError for data that JSON cannot represent."""
    fields = {"sequence": sequence, "epoch": epoch, "kind": kind, "data": data, "active": active, "wall": wall}
    if batch is not None:
        fields["batch"] = batch
    try:
        body = _TO_JSON(fields).encode()
    except (TypeError, ValueError) as error:
        raise StudyError(f"A {kind!r} record needs plain data: {error}.") from error
    return b'{"crc32":"%08x",%b\n' % (zlib.crc32(body[1:]), body[1:])


def decode(line: bytes) -> Record | None:
    """Decode a line, or return None if it is incomplete."""
    if line[:_PREFIX] != b'{"crc32":"%08x",' % zlib.crc32(line[_PREFIX:-1]) or line[-1:] != b"\n":
        return None
    return parse(line)


def parse(line: bytes) -> Record:
    """Decode a line known to be complete. Raises StudyError for one that no evomerge has written."""
    try:
        return _FROM_JSON(line)
    except (ValueError, RecursionError) as error:
        raise StudyError(f"A line of the ledger has the right checksum but is no record: {error!s:.200}.") from error


def ledger_of(folder: Path) -> Path:
    """Return the ledger of the study in a folder. Raises StudyError if there is none."""
    if not (folder / FILE).is_file():
        raise _no_study(folder, FILE)
    return folder / FILE


def read(path: Path) -> Contents:
    """Read all records of a ledger, except an incomplete end and records of fenced-off writers.

    Raises StudyError, naming the line, for a bad record followed by good ones, and for a missing record. Where a
    machine dies while several records are saved at once, any of them may be bad; from there on they are incomplete.
    """
    if not path.is_file():
        raise _no_study(path.parent, path.name)
    records: list[Record] = []
    end = size = 0
    bad: int | None = None
    with path.open("rb", buffering=_BUFFER) as lines, no_collection():
        for number, line in enumerate(lines, start=1):
            size += len(line)
            record = decode(line)
            if record is None:
                bad = bad or number
            elif bad is not None and record.batch is not None and record.batch <= len(records):
                continue
            elif bad is not None:
                raise StudyError(
                    f"{path}, line {bad} is damaged (its checksum does not match), but line {number} is intact: "
                    "this is not an interrupted write. Restore the file from a copy; nothing was changed."
                )
            else:
                end = size
                if records and record.epoch < records[-1].epoch:
                    continue  # its writer was fenced off
                if record.sequence != len(records):
                    raise StudyError(
                        f"{path}, line {number} is record {record.sequence}; expected record {len(records)}."
                    )
                records.append(record)
    return Contents(tuple(records), end, size - end)


@contextmanager
def no_collection() -> Iterator[None]:
    """Do not look for reference cycles meanwhile: over many new objects that stay, that takes most of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _no_study(folder: Path, name: str) -> StudyError:
    absent = "it is a file" if folder.exists() else "it does not exist"
    why = f"it has no {name}" if folder.is_dir() else absent
    return StudyError(f"There is no study in {folder}: {why}. Name the folder that a search file gives as `study`.")
