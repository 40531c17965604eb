"""Write files that appear complete or not at all, and explain disk errors."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from evomerge.errors import EvomergeError

#: Advice by error number, for common disk errors.
_ADVICE = {
    errno.ENOSPC: "Free some space, or write to another disk.",
    errno.EDQUOT: "Free some space, or write to another disk.",
    errno.EROFS: "Write to another disk.",
    errno.EACCES: "Correct the permissions of the folder, or choose another one.",
    errno.EPERM: "Correct the permissions of the folder, or choose another one.",
    errno.ENAMETOOLONG: "Choose a shorter name.",
    errno.EIO: "Check the disk, or write to another one.",
}

#: Suffix of an incomplete file.
PART = ".evomerge-part"


class OutputError(EvomergeError):
    """An output that cannot be written: it exists, another process is writing it, or the disk refuses it."""


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """Yield the path of a new file next to `file`; the contents that the block writes there replace `file`, synced.

    The file's mode follows the umask. If the block raises, nothing is left behind and `file` is unchanged.
    Raises OutputError for disk errors.
    """
    part = file.with_name(f".{file.name[:40]}.{os.getpid()}{PART}")
    try:
        with explained(file):
            part.unlink(missing_ok=True)
            yield part
            sync(part)
            part.replace(file)
            sync(file.absolute().parent)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def write_text(file: Path, text: str) -> None:
    """Write a text file, complete and synced or not at all. Raises OutputError for disk errors."""
    with replacing(file) as part:
        part.write_text(text, encoding="utf-8")


def sync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def explained(target: Path) -> Iterator[None]:
    """Turn a disk error while `target` is written into an OutputError with advice."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"Cannot write {target}: {trouble(error, target)}") from error


def trouble(error: OSError, target: Path) -> str:
    """Describe a disk error: its message, the bytes free at `target`, and advice."""
    advice = _ADVICE.get(error.errno or 0, "")
    return f"{(error.strerror or str(error)).lower()}{free_space(target)}. {advice}".rstrip()


def free_space(target: Path) -> str:
    """Return ` (12,345 bytes free on /data)` for the nearest existing parent folder; empty if unknown."""
    folder = next((above for above in target.absolute().parents if above.is_dir()), Path("/"))
    try:
        return f" ({shutil.disk_usage(folder).free:,} bytes free on {folder})"
    except OSError:
        return ""


def is_trouble(error: BaseException) -> bool:
    """Return whether an error is the disk refusing a write."""
    return isinstance(error, OSError) and error.errno in _ADVICE
