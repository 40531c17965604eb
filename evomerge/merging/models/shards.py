"""The weight files of a model folder: located, and confined to the folder."""

import reprlib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from evaluators import _texts
from evomerge.merging.models.header import CheckpointError, TensorEntry, counted, parse_json, read_header, shown

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
MAX_JSON_BYTES = 100_000_000

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle")

#: Suffixes of tokenizer files of transformers, and the folder of further chat templates.
_TOKENIZER_SUFFIXES = (".json", ".jinja", ".model", ".txt", ".tiktoken", ".spm", ".codes")
_CHAT_TEMPLATES = "additional_chat_templates"


def read_json(folder: Path, name: str) -> dict[str, Any] | None:
    """Read a JSON object of a model folder, or None if the file does not exist. Raises CheckpointError."""
    path = folder / name
    if not path.exists() and not path.is_symlink():
        return None
    check_inside(folder, name)
    if path.stat().st_size > MAX_JSON_BYTES:
        raise CheckpointError(f"{path} has {path.stat().st_size} bytes; at most {MAX_JSON_BYTES} are allowed.")
    return parse_json(read_text(folder, name), str(path))


def read_text(folder: Path, name: str) -> str:
    """Read a UTF-8 file of a model folder. Raises CheckpointError."""
    try:
        return _texts.read_text(check_inside(folder, name))
    except (OSError, _texts.TextError) as error:
        raise CheckpointError(str(error)) from error


def check_inside(folder: Path, name: str) -> Path:
    """Return the file `name` of `folder`, which must be a regular file that is really inside it.

    Links are followed within the folder, and within a Hugging Face cache to the blobs of the same
    repository. Raises CheckpointError for anything else.
    """
    drive = PureWindowsPath(name).drive or "\\" in name or "\0" in name
    if drive or PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise CheckpointError(f"{folder} points outside the model folder: {shown(name)}. Refused (possible attack).")
    home = folder.resolve()
    path = folder / name
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"{folder} lacks {shown(name)}: {type(error).__name__}.") from error
    allowed = [home]
    if home.parent.name == "snapshots":
        allowed.append(home.parent.parent / "blobs")
    if not any(target.is_relative_to(place) for place in allowed):
        raise CheckpointError(
            f"{folder} points outside the model folder: {shown(name)} is a link to {shown(str(target))}. "
            "Refused (possible attack); name the file itself, or copy it into the folder."
        )
    if not target.is_file():
        raise CheckpointError(f"{path} is not a regular file.")
    return path


def check_tokenizer(folder: Path) -> None:
    """Raise CheckpointError for files that transformers may read for a tokenizer and that are outside the folder."""
    for path in sorted(folder.iterdir()):
        if path.suffix in _TOKENIZER_SUFFIXES:
            check_inside(folder, path.name)
    for path in sorted((folder / _CHAT_TEMPLATES).glob("*")):
        check_inside(folder, f"{_CHAT_TEMPLATES}/{path.name}")


def read_folder(folder: Path) -> list[tuple[Path, dict[str, TensorEntry]]]:
    """Return each shard of a model folder with its tensors, as transformers finds them. Raises CheckpointError."""
    if (folder / SINGLE).exists() or (folder / SINGLE).is_symlink():
        path = check_inside(folder, SINGLE)
        return [(path, read_header(path))]
    index = read_json(folder, INDEX)
    if index is None:
        raise CheckpointError(_no_weights(folder))
    return _read_index(folder, index.get("weight_map"))


def _read_index(folder: Path, weight_map: Any) -> list[tuple[Path, dict[str, TensorEntry]]]:
    where = folder / INDEX
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{where} needs a weight_map from tensor names to files.")
    listed: dict[str, list[str]] = {}
    for name, file in weight_map.items():
        if not isinstance(file, str) or not file.endswith(".safetensors"):
            value = ascii(reprlib.repr(file))
            raise CheckpointError(f"{where}: tensor {shown(name)} needs a .safetensors file; it has {value}.")
        listed.setdefault(file, []).append(name)
    shards = []
    for file in sorted(listed):
        path = check_inside(folder, file)
        header = read_header(path)
        _check_listed(path, listed[file], header)
        shards.append((path, header))
    return shards


def _check_listed(path: Path, listed: Iterable[str], header: dict[str, TensorEntry]) -> None:
    absent = sorted(set(listed) - header.keys())
    if absent:
        raise CheckpointError(
            f"{path} lacks {counted(absent)}, which {INDEX} assigns to it: the download is incomplete, "
            "or the index belongs to other files."
        )
    unlisted = sorted(header.keys() - set(listed))
    if unlisted:
        raise CheckpointError(f"{path} contains {counted(unlisted)}, which {INDEX} does not assign to it.")


def _no_weights(folder: Path) -> str:
    if any(folder.glob("adapter_model.*")):
        return f"{folder} is an adapter (LoRA), not a model: use its model, with this folder as the model's `adapter`."
    pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
    if pickles:
        return (
            f"{folder} has no safetensors, only {', '.join(map(shown, pickles[:3]))}: pickle can run code "
            "when loaded. If you trust it, convert it: load it with transformers and call save_pretrained."
        )
    others = sorted(path.name for path in folder.glob("*.safetensors"))
    hint = f" It has {', '.join(map(shown, others[:5]))}: specify one of these files." if others else ""
    return f"{folder} has neither {SINGLE} nor {INDEX}.{hint}"
