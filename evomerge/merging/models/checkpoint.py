"""Checkpoint: a model on disk, opened lazily and memory-mapped; unmergeable models raise an error."""

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from evomerge.merging.models.hashing import Digest, digest_of
from evomerge.merging.models.header import CheckpointError, TensorEntry, read_header, shown
from evomerge.merging.models.model import SPEAKING, Model
from evomerge.merging.models.shards import read_folder, read_json
from evomerge.recipe.model_names import near_path

__all__ = ["Checkpoint", "CheckpointError"]

_DTYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_HUB_FILES = (
    "*.safetensors",
    "*.json",
    "*.jinja",
    "*.model",
    "vocab.txt",
    "merges.txt",
    "LICENSE*",
    "README.md",
)

#: Bytes of a model that stay mapped if it is read once, in sequence.
WINDOW = 64 << 20
_PACKED = (".weight", ".qweight", ".qzeros", ".weight_packed")


class Checkpoint(Model):
    """The tensors of a model folder or of one .safetensors file, by name, in the order of the files.

    path: the folder or file. names: every tensor, shard by shard, in the order of the data.
    """

    def __init__(
        self, path: Path, shards: list[tuple[Path, dict[str, TensorEntry]]], config: Mapping[str, Any] | None
    ) -> None:
        self.path = path
        self.config = None if config is None else MappingProxyType(dict(config))
        self._shards = tuple(file for file, _ in shards)
        self._entries: dict[str, TensorEntry] = {}
        self._shard_of: dict[str, Path] = {}
        self._opened: dict[Path, Any] = {}
        self._hashes: dict[str, str] = {}
        self._window: int | None = None
        self._mapped = 0
        for file, header in shards:
            for name, entry in header.items():
                if name in self._entries:
                    raise CheckpointError(f"{path}: tensor {shown(name)} is in two shards.")
                self._entries[name] = entry
                self._shard_of[name] = file
        if not self._entries:
            raise CheckpointError(f"{path} holds no tensors.")
        self.names = tuple(self._entries)

    @classmethod
    def open(cls, path: str | Path, revision: str | None = None, *, passing: bool = False) -> "Checkpoint":
        """Open a model folder, one .safetensors file, or a model of the Hugging Face hub (`owner/name`).

        Reads headers and configuration, no weights. passing: tensors are read once in sequence and released, so
        that only part of a file stays mapped; otherwise everything read stays mapped, which makes reading it again
        faster. Raises CheckpointError for a model that cannot be merged.
        """
        opened = cls._open(path, revision)
        opened._window = WINDOW if passing else None
        return opened

    @classmethod
    def _open(cls, path: str | Path, revision: str | None) -> "Checkpoint":
        local = locate(path, revision)
        if not local.is_dir():
            return cls(local, [(local, read_header(local))], None)
        config = read_json(local, "config.json")
        _refuse_code(local, config, read_json(local, "tokenizer_config.json"))
        _refuse_quantised_config(local, config)
        checkpoint = cls(local, read_folder(local), config)
        _refuse_packed(checkpoint)
        _refuse_missing_head(checkpoint)
        return checkpoint

    @property
    def files(self) -> tuple[Path, ...]:
        """Return the weight files."""
        return self._shards

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor."""
        return self._entries[name].shape

    def dtype(self, name: str) -> torch.dtype:
        """Return the dtype of a tensor as stored."""
        return _DTYPES[self._entries[name].dtype]

    def tensor(self, name: str) -> Tensor:
        """Return a tensor, mapped from its file without a copy, on the CPU.

        Read-only by convention: a write would stay in this process but be visible to its later reads.
        """
        file = self._shard_of[name]
        if self._window is not None and self._mapped > self._window:
            # A mapped file is released with the last reference to one of its tensors.
            self._opened.clear()
            self._mapped = 0
        try:
            if file not in self._opened:
                self._opened[file] = safe_open(file, framework="pt")
            tensor: Tensor = self._opened[file].get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{file}: tensor {shown(name)} cannot be read: {error}.") from error
        self._mapped += tensor.nbytes
        return tensor

    def sha256(self, digest: Digest = digest_of) -> dict[str, str]:
        """Return the SHA-256 of every weight file by name; reads each once: several adapters may share a model."""
        for file in self._shards:
            if file.name not in self._hashes:
                self._hashes[file.name] = digest(file)
        return dict(self._hashes)


class ModelNotFound(CheckpointError):
    """A model that is neither at a local path nor downloadable. name: its path or hub name."""

    name = ""


def locate(path: str | Path, revision: str | None = None) -> Path:
    """Return the local path of a model, downloading it from the hub if needed. Raises CheckpointError."""
    local = Path(path)
    if not local.exists():
        return _download(str(path), revision)
    if revision is not None:
        raise CheckpointError(f"{path} is a local path, which has no revisions; remove revision {revision!r}.")
    return local


def _not_found(name: str, why: str) -> ModelNotFound:
    error = ModelNotFound(f"{shown(name)} {why}")
    error.name = name
    return error


def _download(name: str, revision: str | None) -> Path:
    near = near_path(name, Path())
    meant = "" if near is None else f" Did you mean {near}?"
    if not _HUB_NAME.fullmatch(name):
        raise _not_found(
            name,
            "does not exist: expected a model folder or a .safetensors file. "
            f"Relative paths in a recipe or search file start at that file's folder.{meant}",
        )
    # Only models on the hub need the hub's client.
    from huggingface_hub import errors, snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(_HUB_FILES)))
    except errors.GatedRepoError as error:
        why = f"its owner requires consent: accept the license at https://huggingface.co/{name}, then `hf auth login`"
        raise _not_found(name, f"cannot be downloaded: {why}.") from error
    except errors.RevisionNotFoundError as error:
        raise _not_found(name, f"has no revision {revision!r} on the Hugging Face hub.") from error
    except errors.RepositoryNotFoundError as error:
        why = "the Hugging Face hub has no such model, or it is private or gated (`hf auth login`)"
        raise _not_found(name, f"is not a local path, and {why}: check the name.{meant}") from error
    except (OSError, ValueError) as error:
        why = f"the Hugging Face hub cannot be reached ({str(error).splitlines()[0][:200]})"
        raise _not_found(name, f"is not a local path, and {why}: check the path, or the connection.{meant}") from error


def _refuse_code(folder: Path, *configs: Mapping[str, Any] | None) -> None:
    for config in configs:
        if config and config.get("auto_map"):
            raise CheckpointError(
                f"{folder} requires custom code (auto_map: {ascii(config['auto_map'])[:200]}), which is never run. "
                "If transformers supports this architecture, remove auto_map from its JSON files."
            )


def _refuse_quantised_config(folder: Path, config: Mapping[str, Any] | None) -> None:
    settings = (config or {}).get("quantization_config")
    if settings:
        kind = settings.get("quant_method", "unknown") if isinstance(settings, dict) else settings
        raise CheckpointError(f"{folder} is quantized ({ascii(kind)[:100]}); merging needs full weights.")


def _refuse_packed(checkpoint: Checkpoint) -> None:
    for name in checkpoint.names:
        if not checkpoint.dtype(name).is_floating_point and name.endswith(_PACKED):
            raise CheckpointError(
                f"{checkpoint.path} is quantized: {shown(name)} has dtype {checkpoint.dtype(name)}; "
                "merging needs full weights."
            )


def _refuse_missing_head(checkpoint: Checkpoint) -> None:
    """Raise an error for a language model without output embeddings, which transformers would fill randomly."""
    causal = checkpoint.has_architecture(SPEAKING[:2])
    if causal and not checkpoint.may_tie and len(checkpoint.vocabulary_matrices()) == 1:
        raise CheckpointError(
            f"{checkpoint.path} lacks its output embeddings (lm_head.weight), and config.json says "
            "tie_word_embeddings=false: transformers would fill them with random numbers."
        )
