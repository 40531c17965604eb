"""Reproduction of an export: the same merge once more, compared with the files that were exported, byte by byte."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evomerge.errors import REFUSED, EvomergeError
from evomerge.merging.models.header import read_header
from evomerge.merging.output.lora_export import export_lora
from evomerge.merging.output.materialize import materialize
from evomerge.merging.output.staging import MARK
from evomerge.recipe import Merge

#: Bytes that are compared at a time.
_CHUNK = 1 << 24


class ReproductionError(EvomergeError):
    """An export that cannot be made again: no manifest, or models that have changed since."""

    exit_code = REFUSED


@dataclass(frozen=True)
class Difference:
    """The first difference between an exported weight file and the one that was made again.

    byte: its offset in the file; tensor: the tensor that it belongs to, None in the header. n_bytes: how many bytes
    differ in the whole file; None where the files differ in length.
    """

    file: str
    byte: int
    tensor: str | None
    n_bytes: int | None

    def __str__(self) -> str:
        place = f"in {self.tensor}" if self.tensor else "in the header"
        counted = "the files differ in length" if self.n_bytes is None else f"{self.n_bytes:,} bytes differ"
        return f"{self.file}: first difference at byte {self.byte:,}, {place}; {counted}"


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of an export. Raises ReproductionError."""
    try:
        data = json.loads((folder / MARK).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ReproductionError(f"{folder} has no readable {MARK}, which every export has: {error}") from error
    keys = {"inputs": dict, "outputs": dict, "versions": dict}
    if not isinstance(data, dict) or not all(isinstance(data.get(key), kind) for key, kind in keys.items()):
        raise ReproductionError(f"{folder / MARK} is not the manifest of an export: it needs {', '.join(keys)}.")
    return data


def write_again(
    merge: Merge, manifest: Mapping[str, Any], folder: Path, progress: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """Write the merge of an export to another folder, as weights or as a LoRA; return its manifest.

    manifest: of the export. Raises as `materialize` and `export_lora` do.
    """
    lora = manifest.get("lora")
    if isinstance(lora, Mapping):
        export_lora(merge, folder, int(lora["rank"]), modules_to_save=bool(lora.get("saved")))
    else:
        materialize(merge, folder, progress=progress)
    return read_manifest(folder)


def changed_inputs(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return the weight files of models that are not those of the export, as `MODEL/FILE`."""
    changed = []
    for model in dict.fromkeys([*before["inputs"], *now["inputs"]]):
        old, new = (each["inputs"].get(model, {}).get("sha256", {}) for each in (before, now))
        changed += [f"{model}/{name}" for name in dict.fromkeys([*old, *new]) if old.get(name) != new.get(name)]
    return changed


def first_difference(exported: Path, again: Path) -> Difference | None:
    """Compare two weight files byte by byte; None if they are equal."""
    lengths = exported.stat().st_size, again.stat().st_size
    first, n_bytes = None, 0
    with exported.open("rb") as one, again.open("rb") as other:
        for begin in range(0, min(lengths), _CHUNK):
            mine, theirs = (np.frombuffer(file.read(_CHUNK), dtype=np.uint8) for file in (one, other))
            common = min(len(mine), len(theirs))
            unequal = np.flatnonzero(mine[:common] != theirs[:common])
            n_bytes += len(unequal)
            if first is None and len(unequal):
                first = begin + int(unequal[0])
    same_length = lengths[0] == lengths[1]
    if first is None and same_length:
        return None
    first = min(lengths) if first is None else first
    tensors = read_header(again)
    tensor = next((name for name, entry in tensors.items() if entry.begin <= first < entry.end), None)
    return Difference(exported.name, first, tensor, n_bytes if same_length else None)
