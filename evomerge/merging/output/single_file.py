"""Whether a single file may be written at a place: no study, input or stranger's file is ever replaced."""

import re
from collections.abc import Iterable
from pathlib import Path

from evomerge.durable import OutputError
from evomerge.merging.models.header import CheckpointError
from evomerge.study.lines import FILE, LOCK, SEARCH_FILE

#: Patterns of the first bytes of our own files.
REPORT = re.compile(rb'<!doctype html>.{0,2000}<meta name="generator" content="evomerge ', re.DOTALL)
RECIPE = re.compile(rb"evomerge: ")
STATISTICS = re.compile(rb'.{8}\{"__metadata__":\{[^}]*"evomerge\.model"', re.DOTALL)

_HEAD = 4096
#: Files that hold weights: replaced by none that is no such file of ours, whoever asks for it.
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".onnx")
_MODEL_MARKS = ("config.json", "adapter_config.json", "model.safetensors", "model.safetensors.index.json")


def check_file(
    file: Path,
    *,
    ours: re.Pattern[bytes] | None = None,
    overwrite: bool,
    inputs: Iterable[Path] = (),
) -> None:
    """Refuse a place for a single output file.

    Args:
        file: The file to write. Its folder must be there.
        ours: Pattern of the first bytes of a file of this kind that evomerge wrote.
        overwrite: Whether a file that is there may be replaced. Never one of a study, of an input, or with weights.
        inputs: Files and folders that the command reads.

    Raises:
        CheckpointError: The file is an input, or lies in the folder of a model that is one.
        OutputError: The file exists, belongs to a study, or cannot be a file.
    """
    target = file.resolve()
    exists = file.exists() or file.is_symlink()
    if exists and not target.is_file():
        kind = "a folder" if target.is_dir() else "no regular file"
        raise OutputError(f"The output {file} is {kind}; a file is written. Give another name.")
    if not target.parent.is_dir():
        raise OutputError(f"The output {file} has no folder to be in: {target.parent} does not exist.")
    own = exists and ours is not None and ours.match(_head(target)) is not None
    _check_inputs(file, target, inputs, exists=exists, own=own)
    _check_study(file, target, exists=exists, own=own)
    if not exists:
        return
    if not own and target.suffix.lower() in _WEIGHTS:
        raise OutputError(f"The output {file} holds weights and is never replaced. Give another file.")
    if not overwrite:
        raise OutputError(f"The output {file} exists. Give another file, or --overwrite to replace it.")


def is_ours(file: Path, ours: re.Pattern[bytes]) -> bool:
    """Whether there is a file that begins as one of this kind does that evomerge wrote."""
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
                f"The output {file} is or lies in the input {path}; an input is never written to. Give another file."
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
            f"The output {file} is a file of the study in {study}, which is never replaced. Give another file."
        )
