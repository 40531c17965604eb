"""The header of a .safetensors file, parsed and validated before anything maps the file.

Format: https://huggingface.co/docs/safetensors. An 8-byte length, a JSON object, and the data without holes.
"""

import json
import math
import reprlib
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomerge.errors import REFUSED, EvomergeError

MAX_HEADER_BYTES = 100_000_000
MAX_TENSORS = 250_000
_MAX_DIMENSIONS = 64
_MAX_NAME = 1000
_MAX_EXTENT = 2**63

#: Bytes per element of the dtypes that can be merged or copied.
ITEM_BYTES: Mapping[str, int] = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U64": 8,
    "U32": 4,
    "U16": 2,
    "U8": 1,
    "BOOL": 1,
}


class CheckpointError(EvomergeError):
    """An invalid input: damaged, dangerous, or incompatible with the others."""

    exit_code = REFUSED


@dataclass(frozen=True)
class TensorEntry:
    """One tensor of a header: dtype as named by safetensors, shape, and byte range in the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def shown(name: str) -> str:
    """Format a name from a file for an error: quoted, escaped, at most 120 characters."""
    return ascii(name if len(name) <= 120 else name[:117] + "...")


def counted(names: Sequence[str], noun: str = "tensor") -> str:
    """Format the number of names and the first of them: `6 tensors ('a', 'b', 'c', 'd', 'e', ...)`."""
    first = ", ".join(map(shown, names[:5])) + (", ..." if len(names) > 5 else "")
    return f"{len(names)} {noun}{'s' * (len(names) != 1)} ({first})"


def read_header(path: Path) -> dict[str, TensorEntry]:
    """Read tensor name -> entry, in the order of the data. Raises CheckpointError for an invalid file."""
    size = _regular_size(path)
    with path.open("rb") as file:
        start = file.read(512)
        if len(start) < 8:
            raise CheckpointError(f"{path} is {_what(start, size)}.")
        length = int.from_bytes(start[:8], "little")
        if length > min(size - 8, MAX_HEADER_BYTES) or start[8:9] != b"{":
            raise CheckpointError(f"{path} is {_what(start, size)}.")
        file.seek(8)
        text = file.read(length)
    header = parse_json(text, f"{path}: the header")
    _check_metadata(path, header.pop("__metadata__", {}))
    if len(header) > MAX_TENSORS:
        raise CheckpointError(f"{path} declares {len(header)} tensors; at most {MAX_TENSORS} are allowed.")
    entries = [(name, _entry(path, name, value, 8 + length)) for name, value in header.items()]
    entries.sort(key=lambda item: (item[1].begin, item[1].end))
    _check_cover(path, entries, 8 + length, size)
    return dict(entries)


def parse_json(text: bytes | str, what: str) -> dict[str, Any]:
    """Parse a JSON object with unique keys in valid Unicode. Raises CheckpointError, which begins with `what`."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise CheckpointError(f"{what} has the key {shown(key)} twice.")
            found[key] = value
        return found

    try:
        value = json.loads(text if isinstance(text, str) else text.decode("utf-8"), object_pairs_hook=unique)
        if isinstance(value, dict):
            "".join(value).encode("utf-8")
            return value
    except CheckpointError:
        raise
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{what} is not valid JSON: {ascii(str(error))[1:-1][:200]}.") from error
    raise CheckpointError(f"{what} must be a JSON object; it is {type(value).__name__}.")


def _regular_size(path: Path) -> int:
    try:
        status = path.stat()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from error
    if not stat.S_ISREG(status.st_mode):
        raise CheckpointError(f"{path} is not a regular file.")
    return status.st_size


def _what(start: bytes, size: int) -> str:
    """Describe a file that does not begin like safetensors."""
    text = start.lstrip().lower()
    if not start:
        return "empty (0 bytes): the download or copy is incomplete"
    if start.startswith(b"version https://git-lfs"):
        return f"a Git LFS pointer ({size} bytes), not weights: run 'git lfs pull'"
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return f"a web page ({size} bytes), not weights: the download got an error page; download it again"
    if start.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")):
        return "a pickle file, which can run code when loaded: convert it to safetensors if you trust it"
    if start.startswith(b"GGUF"):
        return "a GGUF file; merging needs full weights in safetensors"
    if len(start) < 8:
        return f"too short for a safetensors file ({size} bytes)"
    length = int.from_bytes(start[:8], "little")
    if length > size - 8:
        return f"truncated or not a safetensors file: its header declares {length} bytes; the file has {size}"
    if length > MAX_HEADER_BYTES:
        return f"invalid: its header declares {length} bytes; at most {MAX_HEADER_BYTES} are allowed"
    return "not a safetensors file: its header does not begin with '{'"


def _check_metadata(path: Path, metadata: Any) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CheckpointError(f"{path}: __metadata__ in the header must map names to texts.")


def _entry(path: Path, name: str, value: Any, data: int) -> TensorEntry:
    """Validate one entry of the JSON header; `data` is the offset of the data in the file."""
    where = f"{path}: tensor {shown(name)}"
    if len(name) > _MAX_NAME:
        raise CheckpointError(f"{where} has a name of {len(name)} characters; at most {_MAX_NAME} are allowed.")
    if not isinstance(value, dict) or not {"dtype", "shape", "data_offsets"} <= value.keys():
        raise CheckpointError(f"{where} needs dtype, shape and data_offsets.")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise CheckpointError(
            f"{where} has type {reprlib.repr(dtype)!a}; merging needs full weights, one of {', '.join(ITEM_BYTES)}."
        )
    if not _are_sizes(shape) or len(shape) > _MAX_DIMENSIONS:
        raise CheckpointError(f"{where} has an invalid shape: {reprlib.repr(shape)!a}.")
    if not _are_sizes(offsets) or len(offsets) != 2:
        raise CheckpointError(f"{where} has invalid data_offsets: {reprlib.repr(offsets)!a}.")
    begin, end = offsets
    if end - begin != math.prod(shape) * ITEM_BYTES[dtype]:
        raise CheckpointError(
            f"{where}, {dtype} {tuple(shape)}, needs {math.prod(shape) * ITEM_BYTES[dtype]} bytes; "
            f"its data_offsets {offsets} give {end - begin}."
        )
    return TensorEntry(dtype, tuple(shape), data + begin, data + end)


def _are_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < _MAX_EXTENT for item in value)


def _check_cover(path: Path, entries: Iterable[tuple[str, TensorEntry]], data: int, size: int) -> None:
    """Check that entries cover the data from its first byte to the end of the file, without overlaps or holes."""
    reached = data
    for name, entry in entries:
        if entry.end > size:
            raise CheckpointError(
                f"{path} is truncated: tensor {shown(name)} ends at byte {entry.end}; the file has {size}."
            )
        if entry.begin != reached:
            fault = "overlaps its predecessor" if entry.begin < reached else "leaves a hole before it"
            raise CheckpointError(f"{path}: tensor {shown(name)} at byte {entry.begin} {fault} ({reached}).")
        reached = entry.end
    if reached != size:
        raise CheckpointError(f"{path} has {size - reached} bytes after its last tensor, which no tensor owns.")
