"""Model: what merging needs of a model, be it a folder, an adapter on one, or blocks put together from several."""

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
from search_spaces.base import Layout

# Tensors that a network computes and does not learn, as older checkpoints hold them.
_BUFFER = re.compile(r"(?:^|[._])(?:inv_freq|position_ids|num_batches_tracked|masked_bias)$")
# The causal mask of GPT-2 and GPT-NeoX, (1, 1, n, n); a true bias of that name has one dimension.
_MASK = re.compile(r"(?:^|\.)(?:attn|attention)\.bias$")
# Embeddings of positions and segments, which may have as many rows as the vocabulary has tokens.
_NOT_TOKENS = re.compile(r"pos|wpe|type")
#: Of a tensor's bytes, a fingerprint reads so many pieces of so many bytes.
_SAMPLES, _SAMPLE = 8, 512
#: Endings of the architectures that have output embeddings.
SPEAKING = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration", "ForMaskedLM")


class Model(ABC):
    """Tensors by name.

    path: the folder or file whose configuration and tokenizer it has. config: the parsed config.json, or None
    for bare weights. names: every tensor, in checkpoint order. files: what it is read from.
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
        """Shape of a tensor."""

    @abstractmethod
    def dtype(self, name: str) -> torch.dtype:
        """Type of a tensor as it is stored."""

    @abstractmethod
    def tensor(self, name: str) -> Tensor:
        """A tensor on the CPU, to be read only."""

    @abstractmethod
    def sha256(self) -> dict[str, str]:
        """SHA-256 of every file by its name; reads all of them."""

    def factors(self, name: str, base: "Model") -> Factors | None:  # noqa: ARG002
        """A matrix's change to that of `base` as factors, where the model holds it so (rank 0: no change), or None."""
        return None

    def made(self, name: str) -> bool:  # noqa: ARG002
        """Whether a tensor is computed anew each time it is read, and not mapped from a file."""
        return False

    @property
    def held_bytes(self) -> int:
        """Bytes of the tensors that it keeps in memory once they have been read."""
        return 0

    def fingerprint(self) -> str:
        """What tells these weights from others', whatever files they lie in: 16 hex digits; reads samples of them."""
        digest = hashlib.sha256()
        for name in sorted(self.names):
            digest.update(f"{name} {self.shape(name)} {self.dtype(name)}\n".encode())
            flat = self.tensor(name).reshape(-1).view(torch.uint8)
            for start in range(0, len(flat), max(len(flat) // _SAMPLES, _SAMPLE)):
                digest.update(flat[start : start + _SAMPLE].numpy().data)
        return digest.hexdigest()[:16]

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(math.prod(self.shape(name)) * self.dtype(name).itemsize for name in self.names)

    def mergeable(self, name: str) -> bool:
        """Whether a tensor holds learnt weights; integers and computed buffers are copied from the base."""
        if not self.dtype(name).is_floating_point or _BUFFER.search(name):
            return False
        return not (_MASK.search(name) and len(self.shape(name)) == 4)

    @property
    def tied(self) -> bool:
        """Whether the output embeddings are the input embeddings: one matrix for both, config allows it."""
        return self.has_architecture(SPEAKING) and self.may_tie and len(self.vocabulary_matrices()) == 1

    @property
    def may_tie(self) -> bool:
        """Whether config.json lets the output embeddings be the input embeddings."""
        # transformers may leave the flag out where it is the architecture's default: absent means "may be".
        return (self.config or {}).get("tie_word_embeddings") is not False

    def has_architecture(self, endings: tuple[str, ...]) -> bool:
        """Whether config.json names an architecture that ends so."""
        names = (self.config or {}).get("architectures")
        return isinstance(names, list) and any(str(name).endswith(endings) for name in names)

    def vocabulary_matrices(self) -> list[str]:
        """Input and output embeddings: matrices with a row for each token of the vocabulary."""
        config: Mapping[str, Any] = self.config or {}
        text = config.get("text_config")
        rows = config.get("vocab_size") or (text.get("vocab_size") if isinstance(text, dict) else None)
        shapes = {name: self.shape(name) for name in self.names if not _NOT_TOKENS.search(name)}
        return [name for name, shape in shapes.items() if len(shape) == 2 and shape[0] == rows]

    def layout(self) -> Layout:
        """Depth and component of every mergeable tensor."""
        return Layout.from_names([name for name in self.names if self.mergeable(name)])
