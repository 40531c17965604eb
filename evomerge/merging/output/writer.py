"""Write safetensors shards tensor by tensor: headers first, then the data; the same bytes in any process."""

import json
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO

import torch
from torch import Tensor

from evomerge.errors import PAUSED, EvomergeError
from evomerge.merging.models.checkpoint import Checkpoint
from evomerge.merging.models.header import ITEM_BYTES, shown
from evomerge.merging.models.model import Model
from evomerge.merging.models.shards import INDEX, SINGLE
from evomerge.merging.output.write_behind import WriteBehind, Written, checksum_of

#: Shards are closed before they exceed this size, as in transformers.
MAX_SHARD_BYTES = 5_000_000_000

_CODES: Mapping[torch.dtype, str] = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


class WriteError(EvomergeError):
    """Merged weights that cannot be written, or that differ on disk from what was written."""

    exit_code = PAUSED


@dataclass(frozen=True)
class Planned:
    """A tensor to write: its name, shape and dtype."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        """Size of the tensor in bytes."""
        return torch.Size(self.shape).numel() * ITEM_BYTES[_CODES[self.dtype]]


@dataclass(frozen=True)
class _Shard:
    file: str
    header: bytes
    offsets: Mapping[str, int]
    size: int


def plan_tensors(base: Model, dtype: torch.dtype | None) -> tuple[Planned, ...]:
    """Return the tensors of a merge into `base`: merged ones in `dtype` (None: their own), others unchanged."""
    return tuple(
        Planned(name, base.shape(name), dtype if dtype and base.mergeable(name) else base.dtype(name))
        for name in base.names
    )


def write_weights(
    folder: Path,
    plan: Iterable[Planned],
    tensors: Iterable[tuple[str, Tensor]],
    *,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    metadata: Mapping[str, str] = MappingProxyType({}),
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, int]:
    """Write `tensors`, in any order, as the shards (and index) of `plan`, in a thread while the next ones are computed.

    Tensors that are not written yet must not change; there are a few of them, see `WAITING_BYTES`.
    metadata: for every file. progress: called with bytes written and bytes in total. Returns each tensor's CRC-32, for
    `check_weights`. Raises WriteError for a tensor that is unplanned, missing, repeated, or of another shape
    or dtype.
    """
    planned = {tensor.name: tensor for tensor in plan}
    shards = _lay_out(tuple(planned.values()), max_shard_bytes, metadata)
    place = {name: shard for shard in shards for name in shard.offsets}
    total, done = sum(tensor.nbytes for tensor in planned.values()), 0
    sums: dict[str, int] = {}
    seen: set[str] = set()

    def note(written: list[Written]) -> None:
        nonlocal done
        for tensor in written:
            sums[tensor.name] = tensor.checksum
            done += tensor.nbytes
            if progress is not None:
                progress(done, total)

    with ExitStack() as stack:
        files = {shard.file: stack.enter_context(_create(folder / shard.file, shard)) for shard in shards}
        writing = stack.enter_context(WriteBehind())
        for name, tensor in tensors:
            _check_tensor(name, tensor, planned, seen)
            seen.add(name)
            note(writing.put(name, tensor, files[place[name].file], place[name].offsets[name]))
        note(writing.finish())
        missing = [name for name in planned if name not in sums]
        if missing:
            raise WriteError(f"{len(missing)} tensors were not merged, the first being {shown(missing[0])}.")
        for file in files.values():
            file.flush()
            os.fsync(file.fileno())
    if len(shards) > 1:
        _write_index(folder, shards, total)
    return sums


def check_weights(checkpoint: Checkpoint, plan: Iterable[Planned], sums: Mapping[str, int]) -> None:
    """Read written weights back and compare names, shapes, dtypes and checksums. Raises WriteError."""
    planned = {tensor.name: tensor for tensor in plan}
    if set(checkpoint.names) != set(planned):
        raise WriteError(f"{checkpoint.path} contains {len(checkpoint.names)} of {len(planned)} tensors.")
    for name, wanted in planned.items():
        found = Planned(name, checkpoint.shape(name), checkpoint.dtype(name))
        if found != wanted or checksum_of(checkpoint.tensor(name)) != sums[name]:
            raise WriteError(
                f"{checkpoint.path}: tensor {shown(name)} was read back differently from what was written. "
                "Check the disk and the memory of this machine."
            )


def _lay_out(plan: tuple[Planned, ...], max_shard_bytes: int, metadata: Mapping[str, str]) -> list[_Shard]:
    groups: list[list[Planned]] = [[]]
    size = 0
    for tensor in plan:
        if groups[-1] and size + tensor.nbytes > max_shard_bytes:
            groups.append([])
            size = 0
        groups[-1].append(tensor)
        size += tensor.nbytes
    n = len(groups)
    files = [SINGLE] if n == 1 else [f"model-{i:05d}-of-{n:05d}.safetensors" for i in range(1, n + 1)]
    return [_shard(file, group, metadata) for file, group in zip(files, groups, strict=True)]


def _shard(file: str, group: list[Planned], metadata: Mapping[str, str]) -> _Shard:
    # Widest dtypes first, so that every tensor begins at a multiple of its element size.
    ordered = sorted(group, key=lambda tensor: -ITEM_BYTES[_CODES[tensor.dtype]])
    header: dict[str, object] = {"__metadata__": {"format": "pt", **metadata}}
    begins, position = {}, 0
    for tensor in ordered:
        end = position + tensor.nbytes
        header[tensor.name] = {
            "dtype": _CODES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [position, end],
        }
        begins[tensor.name] = position
        position = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    data = 8 + len(text)
    offsets = {name: data + begin for name, begin in begins.items()}
    return _Shard(file, len(text).to_bytes(8, "little") + text, offsets, data + position)


def _create(path: Path, shard: _Shard) -> BinaryIO:
    file = path.open("xb")
    file.write(shard.header)
    file.truncate(shard.size)
    return file


def _check_tensor(name: str, tensor: Tensor, planned: Mapping[str, Planned], seen: set[str]) -> None:
    if name not in planned or name in seen:
        raise WriteError(f"Tensor {shown(name)} was merged {'twice' if name in seen else 'without a plan'}.")
    found = Planned(name, tuple(tensor.shape), tensor.dtype)
    if found != planned[name]:
        raise WriteError(
            f"Tensor {shown(name)} was merged as {tensor.dtype} {tuple(tensor.shape)}; "
            f"expected {planned[name].dtype} {planned[name].shape}."
        )


def _write_index(folder: Path, shards: list[_Shard], total: int) -> None:
    weight_map = {name: shard.file for shard in shards for name in shard.offsets}
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
