"""Model: the interface that merging requires, implemented by folders, adapters and rearranged blocks."""

import hashlib
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evomerge.merging.factors import Factors
from evomerge.merging.models.hashing import Digest, digest_of
from search_spaces.base import Layout

# Tensors that a network computes instead of learning, stored in older checkpoints.
_BUFFER = re.compile(r"(?:^|[._])(?:inv_freq|position_ids|num_batches_tracked|masked_bias)$")
# The causal mask of GPT-2 and GPT-NeoX, (1, 1, n, n); a real bias of that name has one dimension.
_MASK = re.compile(r"(?:^|\.)(?:attn|attention)\.bias$")
# Embeddings of positions and segments, which may happen to have as many rows as the vocabulary.
_NOT_TOKENS = re.compile(r"pos|wpe|type")
#: Number and size in bytes of the samples that a fingerprint reads from each tensor.
_SAMPLES, _SAMPLE = 8, 512
#: Name endings of architectures with output embeddings.
SPEAKING = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration", "ForMaskedLM")


class Model(ABC):
    """Tensors by name.

    path: folder or file of the configuration and tokenizer. config: the parsed config.json, or None
    for bare weights. names: every tensor, in checkpoint order. files: the files it is read from.
    """

    path: Path
    config: Mapping[str, Any] | None
    names: tuple[str, ...]

    @property
    @abstractmethod
    def files(self) -> tuple[Path, ...]:
        """Every file that the weights are read from."""

    @abstractmethod
    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor."""

    @abstractmethod
    def dtype(self, name: str) -> torch.dtype:
        """Return the dtype of a tensor as stored."""

    @abstractmethod
    def tensor(self, name: str) -> Tensor:
        """Return a tensor on the CPU; read-only."""

    @abstractmethod
    def sha256(self, digest: Digest = digest_of) -> dict[str, str]:
        """Return the SHA-256 of every file by name. digest: computes that of a weight file, by reading it."""

    def factors(self, name: str, base: "Model") -> Factors | None:  # noqa: ARG002
        """Return a matrix's change relative to `base` as factors if stored that way (rank 0: no change), or None."""
        return None

    def made(self, name: str) -> bool:  # noqa: ARG002
        """Return whether a tensor is computed each time it is read, instead of mapped from a file."""
        return False

    @property
    def held_bytes(self) -> int:
        """Return the bytes of the tensors that it caches once they have been read."""
        return 0

    def fingerprint(self) -> str:
        """Return an identifier of the weights, whatever files they are in: 16 hex digits; reads samples."""
        digest = hashlib.sha256()
        for name in sorted(self.names):
            digest.update(f"{name} {self.shape(name)} {self.dtype(name)}\n".encode())
            flat = self.tensor(name).reshape(-1).view(torch.uint8)
            for start in range(0, len(flat), max(len(flat) // _SAMPLES, _SAMPLE)):
                digest.update(flat[start : start + _SAMPLE].numpy().data)
        return digest.hexdigest()[:16]

    @property
    def nbytes(self) -> int:
        """Size of all tensors in bytes."""
        return sum(math.prod(self.shape(name)) * self.dtype(name).itemsize for name in self.names)

    def mergeable(self, name: str) -> bool:
        """Return whether a tensor holds learned weights; integers and computed buffers are copied from the base."""
        if not self.dtype(name).is_floating_point or _BUFFER.search(name):
            return False
        return not (_MASK.search(name) and len(self.shape(name)) == 4)

    @property
    def tied(self) -> bool:
        """Whether the output embeddings are the input embeddings: a single matrix, allowed by the config."""
        return self.has_architecture(SPEAKING) and self.may_tie and len(self.vocabulary_matrices()) == 1

    @property
    def may_tie(self) -> bool:
        """Whether config.json allows the output embeddings to be the input embeddings."""
        # transformers may omit the flag if it is the architecture's default: absent means "may be".
        return (self.config or {}).get("tie_word_embeddings") is not False

    def has_architecture(self, endings: tuple[str, ...]) -> bool:
        """Return whether config.json names an architecture with one of these endings."""
        names = (self.config or {}).get("architectures")
        return isinstance(names, list) and any(str(name).endswith(endings) for name in names)

    def vocabulary_matrices(self) -> list[str]:
        """Return the input and output embeddings: matrices with one row per token of the vocabulary."""
        config: Mapping[str, Any] = self.config or {}
        text = config.get("text_config")
        rows = config.get("vocab_size") or (text.get("vocab_size") if isinstance(text, dict) else None)
        shapes = {name: self.shape(name) for name in self.names if not _NOT_TOKENS.search(name)}
        return [name for name, shape in shapes.items() if len(shape) == 2 and shape[0] == rows]

    def layout(self) -> Layout:
        """Return depth and component of every mergeable tensor."""
        return Layout.from_names([name for name in self.names if self.mergeable(name)])
