"""Checks for a single output file: no study, input or foreign file is ever replaced."""

import re
from collections.abc import Iterable
from pathlib import Path

from evomerge.durable import OutputError
from evomerge.merging.models.header import CheckpointError
from evomerge.study.lines import FILE, LOCK, SEARCH_FILE

#: Patterns of the first bytes of evomerge's own files.
REPORT = re.compile(rb'<!doctype html>.{0,2000}<meta name="generator" content="evomerge ', re.DOTALL)
RECIPE = re.compile(rb"evomerge: ")
STATISTICS = re.compile(rb'.{8}\{"__metadata__":\{[^}]*"evomerge\.model"', re.DOTALL)

_HEAD = 4096
#: Suffixes of weight files, which are replaced only if evomerge wrote them.
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".onnx")
_MODEL_MARKS = ("config.json", "adapter_config.json", "model.safetensors", "model.safetensors.index.json")


def check_file(
    file: Path,
    *,
    ours: re.Pattern[bytes] | None = None,
    overwrite: bool,
    inputs: Iterable[Path] = (),
) -> None:
    """Check that a single output file may be written.

    Args:
        file: The file to write, in an existing folder.
        ours: Pattern of the first bytes of a file of this kind written by evomerge.
        overwrite: Whether an existing file may be replaced; never one of a study, of an input, or with weights.
        inputs: Files and folders that the command reads.

    Raises:
        CheckpointError: The file is an input, or lies in the folder of a model that is one.
        OutputError: The file exists, belongs to a study, or cannot be a file.
    """
    target = file.resolve()
    exists = file.exists() or file.is_symlink()
    if exists and not target.is_file():
        kind = "a folder" if target.is_dir() else "not a regular file"
        raise OutputError(f"The output {file} is {kind}; expected a file name. Choose another one.")
    if not target.parent.is_dir():
        raise OutputError(
            f"The output {file} needs an existing folder: create {target.parent}, or choose another place."
        )
    own = exists and ours is not None and ours.match(_head(target)) is not None
    _check_inputs(file, target, inputs, exists=exists, own=own)
    _check_study(file, target, exists=exists, own=own)
    if not exists:
        return
    if not own and target.suffix.lower() in _WEIGHTS:
        raise OutputError(f"The output {file} contains weights and is never replaced. Choose another file.")
    if not overwrite:
        raise OutputError(f"The output {file} exists. Choose another file, or --overwrite to replace it.")


def is_ours(file: Path, ours: re.Pattern[bytes]) -> bool:
    """Return whether a file exists and begins like one of this kind written by evomerge."""
    return file.is_file() and ours.match(_head(file)) is not None


def _head(file: Path) -> bytes:
    with file.open("rb") as stream:
        return stream.read(_HEAD)


def _check_inputs(file: Path, target: Path, inputs: Iterable[Path], *, exists: bool, own: bool) -> None:
    for path in inputs:
        if not path.exists():
            continue
        found = path.resolve()
        inside = found in target.parents and (_is_model(found) or (exists and not own))
        if target == found or inside or (exists and target.samefile(found)):
            raise CheckpointError(
                f"The output {file} is or is inside the input {path}; inputs are never written to. Choose another file."
            )


def _is_model(folder: Path) -> bool:
    return any((folder / name).exists() for name in _MODEL_MARKS)


def _check_study(file: Path, target: Path, *, exists: bool, own: bool) -> None:
    study = next((f for f in target.parents[:2] if (f / FILE).exists() or (f / LOCK).exists()), None)
    if study is None:
        return
    name = target.relative_to(study).parts[0]
    kept = name == SEARCH_FILE or name.startswith(f"{Path(FILE).stem}.")
    if kept or (exists and not own):
        raise OutputError(
            f"The output {file} is a file of the study in {study}, which is never replaced. Choose another file."
        )
