"""The single writer of a ledger: one write and one fsync per batch, protected by a lock and a fencing epoch."""

import errno
import fcntl
import json
import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

from evomerge.durable import PART, write_text
from evomerge.study.lines import (
    FILE,
    LOCK,
    Contents,
    Record,
    StudyBusy,
    StudyError,
    StudyExists,
    encode,
    ledger_of,
    parse,
    read,
)

RESERVE = "ledger.reserve"
RESERVE_BYTES = 1 << 20
NOTHING: Mapping[str, str] = MappingProxyType({})


class Files:
    """The system calls for writing a ledger; tests pass one whose N-th call fails."""

    def write(self, descriptor: int, data: bytes) -> int:
        """Append to a file; return the number of bytes written."""
        return os.write(descriptor, data)

    def fsync(self, descriptor: int) -> None:
        """Wait until a file or folder is on the disk."""
        os.fsync(descriptor)

    def truncate(self, descriptor: int, size: int) -> None:
        """Cut a file to `size` bytes."""
        os.ftruncate(descriptor, size)

    def allocate(self, descriptor: int, size: int) -> None:
        """Allocate `size` bytes of the disk to a file."""
        os.posix_fallocate(descriptor, 0, size)


class Ledger:
    """Appends to a ledger. Its lock is released with the process; its epoch fences off writers without it."""

    def __init__(self, folder: Path, files: Files) -> None:
        self.path = folder / FILE
        self.epoch = 0
        self._files = files
        self._signature = b""
        self._descriptor = -1
        self._end = 0
        self._sequence = 0
        self._lines: list[bytes] = []
        self._lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            self._take_lock()
        except BaseException:
            os.close(self._lock)
            raise

    @classmethod
    def create(
        cls, folder: Path, kind: str, data: Mapping[str, Any], files: Files, beside: Mapping[str, str] = NOTHING
    ) -> tuple["Ledger", Record]:
        """Create a ledger with its first record; it appears complete or not at all. Raises StudyExists.

        beside: texts by file name, saved in the folder before the ledger exists.
        """
        folder.mkdir(parents=True, exist_ok=True)
        ledger = cls(folder, files)
        try:
            if ledger.path.exists():
                raise StudyExists(
                    f"There is already a study in {folder}: continue it with --resume, or give another folder as "
                    "`study:` in the search file."
                )
            for name, text in beside.items():
                for left in folder.glob(f".{name}.*{PART}"):  # left by a killed process
                    left.unlink()
                write_text(folder / name, text)
            new = ledger.path.with_suffix(".new")
            ledger._descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o666)
            ledger._reserve()
            first = ledger.append(kind, data, 0.0)
            ledger.save()
            new.rename(ledger.path)
            _sync_folder(folder, files)
            _sync_folder(folder.parent, files)
        except BaseException:
            ledger.close()
            raise
        return ledger, first

    @classmethod
    def open(cls, folder: Path, files: Files) -> tuple["Ledger", Contents]:
        """Take over a ledger. An incomplete end is cut off and kept in `ledger.torn-<n>`.

        Raises StudyBusy if another process has it, StudyError if it cannot be read.
        """
        ledger_of(folder)
        ledger = cls(folder, files)
        try:
            contents = read(ledger.path)
            ledger._end, ledger._sequence = contents.end, len(contents.records)
            ledger.epoch = max([ledger.epoch, *(record.epoch + 1 for record in contents.records)])
            ledger._sign_lock()
            ledger._descriptor = os.open(ledger.path, os.O_WRONLY | os.O_APPEND)
            if contents.torn_bytes:
                ledger._keep_torn_end()
            ledger._reserve()
        except BaseException:
            ledger.close()
            raise
        return ledger, contents

    def append(self, kind: str, data: Mapping[str, Any], active: float) -> Record:
        """Add a record to those that `save` writes; return it as a reader will see it."""
        wall = datetime.now(UTC).isoformat(timespec="seconds")
        batch = self._sequence - len(self._lines) if self._lines else None
        line = encode(self._sequence, self.epoch, kind, data, active, wall, batch)
        self._lines.append(line)
        self._sequence += 1
        return parse(line)

    def save(self) -> None:
        """Write the records added since the last call; they are on the disk on return.

        Raises StudyBusy if another writer took over, OSError if the disk refuses; then none of them was added.
        If the disk is full, the reserve is given up for the records, once.
        """
        lines, self._lines = self._lines, []
        if not lines:
            return
        try:
            self._check_fence()
            self._save(b"".join(lines))
        except BaseException:
            self._sequence -= len(lines)
            raise

    @property
    def has_reserve(self) -> bool:
        """Whether the space reserved for the last records is still there."""
        return (self.path.parent / RESERVE).exists()

    def close(self) -> None:
        """Release the lock; calling it again has no effect."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _save(self, lines: bytes) -> None:
        try:
            self._write(lines)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not self.has_reserve:
                raise
            (self.path.parent / RESERVE).unlink()
            self._write(lines)
        self._end += len(lines)

    def _write(self, lines: bytes) -> None:
        # An interrupted append may have left bytes that no record accounts for, or a writer without the lock.
        if os.fstat(self._descriptor).st_size != self._end:
            self._check_fence()  # they may also be the records of the writer that has taken over from this one
            self._files.truncate(self._descriptor, self._end)
        try:
            _write_all(self._files, self._descriptor, lines)
        except OSError:
            with suppress(OSError):  # the next append truncates again
                self._files.truncate(self._descriptor, self._end)
            raise

    def _take_lock(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StudyBusy(_owner(self.path.parent, os.pread(self._lock, 4096, 0))) from None
        last = _lock_fields(os.pread(self._lock, 4096, 0))
        self.epoch = int(last.get("epoch", 0)) + 1
        self._sign_lock()

    def _sign_lock(self) -> None:
        owner = {"epoch": self.epoch, "pid": os.getpid(), "host": socket.gethostname()}
        self._signature = json.dumps(owner).encode()
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, self._signature, 0)

    def _check_fence(self) -> None:
        if self._lock < 0:
            raise StudyError(f"The study in {self.path.parent} was closed; open it again to write to it.")
        try:
            current = (self.path.parent / LOCK).read_bytes()
        except FileNotFoundError:
            current = b""
        if current != self._signature:
            raise StudyBusy(_owner(self.path.parent, current))

    def _keep_torn_end(self) -> None:
        with self.path.open("rb") as file:
            file.seek(self._end)
            torn = file.read()
        taken = {path.name for path in self.path.parent.glob("ledger.torn-*")}
        name = next(f"ledger.torn-{n}" for n in range(1, len(taken) + 2) if f"ledger.torn-{n}" not in taken)
        descriptor = os.open(self.path.parent / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            _write_all(self._files, descriptor, torn)
        finally:
            os.close(descriptor)
        _sync_folder(self.path.parent, self._files)
        self._files.truncate(self._descriptor, self._end)
        self._files.fsync(self._descriptor)

    def _reserve(self) -> None:
        descriptor = os.open(self.path.parent / RESERVE, os.O_WRONLY | os.O_CREAT, 0o666)
        try:
            self._files.allocate(descriptor, RESERVE_BYTES)
        finally:
            os.close(descriptor)


def is_being_written(folder: Path) -> bool:
    """Return whether a process of this machine has the lock of the ledger in `folder`; False if that is unknown.

    Trying the lock could take it from a writer that is just starting, so its owner's open files are inspected.
    """
    try:
        owner = _lock_fields((folder / LOCK).read_bytes())
        if owner.get("host") != socket.gethostname():
            return False
        return any(_is_file(link, folder / LOCK) for link in Path(f"/proc/{owner.get('pid')}/fd").iterdir())
    except OSError:  # no lock, no such process, no /proc, or another user's process
        return False


def _is_file(link: Path, file: Path) -> bool:
    try:
        return link.samefile(file)
    except OSError:  # closed in the meantime
        return False


def _write_all(files: Files, descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[files.write(descriptor, bytes(rest)) :]
    files.fsync(descriptor)


def _sync_folder(folder: Path, files: Files) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        files.fsync(descriptor)
    finally:
        os.close(descriptor)


def _lock_fields(text: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(text)
    except ValueError:  # a new lock, or one truncated by a crash
        return {}
    return fields if isinstance(fields, dict) else {}


def _owner(folder: Path, text: bytes) -> str:
    owner = _lock_fields(text)
    who = f"{owner.get('host', 'an unknown host')}, process {owner.get('pid', 'unknown')}"
    return f"The study in {folder} is being run by {who}. Watch it with `evomerge status {folder}`."
