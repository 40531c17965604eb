"""Pins: fingerprints of a study's input files, so that a changed model is never searched or exported.

A pin holds a file's status (size, times, inode), a hash of samples, and its SHA-256. An unchanged status means
an unchanged file; otherwise the SHA-256 decides, so that a touched or copied file still counts as the same.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from evomerge.merging.models.checkpoint import locate
from evomerge.merging.models.header import CheckpointError
from evomerge.merging.models.shards import INDEX, SINGLE, read_json
from evomerge.merging.output.assets import COPIED
from evomerge.recipe import Recipe
from evomerge.study import Study

#: Maximum total bytes hashed immediately, which takes a fifth of a second; more are hashed during the search.
AT_ONCE = 64_000_000
_SETTINGS = ("config.json", "adapter_config.json", "adapter_model.safetensors", INDEX, SINGLE, *COPIED)
_SAMPLES, _SAMPLE = 64, 4096


class InputChanged(CheckpointError):
    """An input that has changed since the study began."""


@dataclass(frozen=True)
class Pin:
    """The recorded state of a file. status: size, times in ns of contents and of the inode, inode. sha256: None if not
    computed yet. sample: hash of some pieces of it.
    """

    status: tuple[int, ...]
    sample: str
    sha256: str | None = None

    @property
    def size(self) -> int:
        """Size of the file in bytes."""
        return self.status[0]


Files = Mapping[str, Path]
Pins = Mapping[str, Pin]


def input_files(recipe: Recipe) -> dict[str, Path]:
    """Return every file that determines a recipe's models, by `MODEL/part/FILE`.

    Raises CheckpointError for a model that does not exist.
    """
    found: dict[str, Path] = {}
    for model in (recipe.base, *recipe.inputs):
        parts = {"path": locate(model.path, model.revision)}
        if model.adapter is not None:
            parts["adapter"] = locate(model.adapter, model.adapter_revision)
        if model.statistics is not None:
            parts["statistics"] = Path(model.statistics)
        for part, place in parts.items():
            found |= {f"{model.name}/{part}/{name}": file for name, file in _files(place).items()}
    return found


def take(files: Files) -> dict[str, Pin]:
    """Pin files, including their SHA-256 if hashing all of them is fast. Raises CheckpointError."""
    pins = {name: Pin(_status(file), _sampled(file)) for name, file in files.items()}
    if sum({pin.status: pin.size for pin in pins.values()}.values()) <= AT_ONCE:
        pins = hashed(files, pins)
    return pins


def hashed(files: Files, pins: Pins) -> dict[str, Pin]:
    """Return the same pins with every SHA-256; a file that changed in the meantime keeps its old pin."""
    complete = dict(pins)
    for name, pin in pins.items():
        if pin.sha256 is None:
            with suppress(InputChanged):  # the next check of its status reports it
                digest = _digest(files[name], pin.status)
                if _status(files[name]) == pin.status:
                    complete[name] = replace(pin, sha256=digest)
    return complete


def compare(files: Files, pins: Pins) -> dict[str, Pin]:
    """Return the pins of unchanged files, with their current status, such as that of a copy.

    Raises InputChanged for a missing, new or changed file, with both hashes.
    """
    gone, new = sorted(pins.keys() - files.keys()), sorted(files.keys() - pins.keys())
    if gone or new:
        raise _changed(f"the file {gone[0]} has disappeared" if gone else f"the file {new[0]} was added")
    return {name: _judged(files[name], pin) for name, pin in pins.items()}


def same_files(a: Pins, b: Pins) -> bool:
    """Return whether two sets of pins are of files with the same names and contents, as far as both are hashed."""
    if a.keys() != b.keys():
        return False
    pairs = [(pin, b[name]) for name, pin in a.items()]
    return all(
        one.size == other.size
        and (one.sha256 == other.sha256 if one.sha256 and other.sha256 else one.sample == other.sample)
        for one, other in pairs
    )


def compare_models(study: Study, recipe: Recipe) -> dict[str, Pin] | None:
    """Return the pins of a study's unchanged models; None if it has none. Raises InputChanged."""
    if study.inputs is None:
        return None
    return compare(input_files(recipe), from_dict(study.inputs))


def unchanged(files: Files, pins: Pins) -> bool:
    """Return whether no file was written or replaced since its pin; asks the file system only."""
    try:
        return all(_status(files[name]) == pin.status for name, pin in pins.items())
    except CheckpointError:
        return False


def check_worker(files: Files, pins: Pins) -> None:
    """Compare the files that a worker sees, on any machine, by samples. Raises InputChanged."""
    for name, pin in pins.items():
        file = files.get(name)
        if file is None:
            raise _changed(f"the file {name} has disappeared from this machine")
        if _status(file) != pin.status and (_status(file)[0] != pin.size or _sampled(file) != pin.sample):
            _judged(file, pin)


def to_dict(pins: Pins) -> dict[str, Any]:
    """Convert pins to plain data, for the ledger."""
    return {
        name: {"status": list(pin.status), "sample": pin.sample, "sha256": pin.sha256} for name, pin in pins.items()
    }


def from_dict(data: Mapping[str, Any]) -> dict[str, Pin]:
    """Restore pins from `to_dict`."""
    return {name: Pin(tuple(pin["status"]), pin["sample"], pin["sha256"]) for name, pin in data.items()}


def _files(place: Path) -> dict[str, Path]:
    if not place.is_dir():
        return {place.name: place}
    names = {name for name in _SETTINGS if (place / name).is_file()}
    if SINGLE in names:
        names.discard(INDEX)
    elif INDEX in names:
        weight_map = (read_json(place, INDEX) or {}).get("weight_map")
        names |= set(weight_map.values()) if isinstance(weight_map, dict) else set()
    return {name: place / name for name in sorted(names)}


def _judged(file: Path, pin: Pin) -> Pin:
    status = _status(file)
    if status == pin.status:
        return pin
    digest = _sha256(file) if pin.sha256 is not None or status[0] != pin.size else None
    if status[0] != pin.size or digest != pin.sha256 or (digest is None and _sampled(file) != pin.sample):
        before = f"sha256 {pin.sha256}" if pin.sha256 else f"samples {pin.sample}"
        now = f"sha256 {digest}" if digest else f"samples {_sampled(file)}"
        raise _changed(f"{file} changed: {before} ({pin.size} bytes) then, {now} ({status[0]} bytes) now")
    return replace(pin, status=status)


def _changed(what: str) -> InputChanged:
    return InputChanged(
        f"Since the study began, {what}. Scores of different models must not be mixed: restore the old file and "
        "resume with --resume, or start a new study in another folder."
    )


def _status(file: Path) -> tuple[int, ...]:
    try:
        found = file.stat()
    except OSError as error:
        raise _changed(f"{file} cannot be read any more ({error.strerror})") from error
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


def _sampled(file: Path) -> str:
    """Return the SHA-256 of the size and of pieces spread over the file: milliseconds for any file."""
    try:
        with file.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            digest = hashlib.sha256(json.dumps(size).encode())
            for number in range(_SAMPLES + 1):
                stream.seek(max(0, size - _SAMPLE) * number // _SAMPLES)
                digest.update(stream.read(_SAMPLE))
    except OSError as error:
        raise _changed(f"{file} cannot be read any more ({error.strerror})") from error
    return digest.hexdigest()


def _sha256(file: Path) -> str:
    return _digest(file, _status(file))


@lru_cache(maxsize=1024)
def _digest(file: Path, _status: tuple[int, ...]) -> str:
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise _changed(f"{file} cannot be read any more ({error.strerror})") from error
