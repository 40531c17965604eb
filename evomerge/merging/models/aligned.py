"""Aligned: a model whose embeddings have the rows of another vocabulary."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evomerge.merging.factors import Factors
from evomerge.merging.models.hashing import Digest, digest_of
from evomerge.merging.models.header import CheckpointError
from evomerge.merging.models.model import Model

#: Source rows, as (model label, row there), whose mean is used. Empty: zeros.
Donors = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Alignment:
    """The rearrangement of all models' embeddings.

    rows: model -> (n_rows,) row of each token there, or -1. donors: token's row -> its source for models without
    it. forced: rows that every model takes from the donors. n_tokens: rows beyond are padding.
    """

    n_tokens: int
    n_rows: int
    rows: Mapping[str, NDArray[np.int64]]
    donors: Mapping[int, Donors]
    forced: frozenset[int]


class Aligned(Model):
    """A model whose embeddings have the rows of another vocabulary. `label`: its name among `models`."""

    def __init__(
        self, label: str, models: Mapping[str, Model], alignment: Alignment, config: Mapping[str, Any]
    ) -> None:
        self._model = models[label]
        self._models = models
        self._label = label
        self._alignment = alignment
        self._rows = frozenset(_vocabulary_tensors(self._model))
        self._made: dict[str, Tensor] = {}
        self.path = self._model.path
        self.config = MappingProxyType(dict(config))
        self.names = self._model.names

    @property
    def files(self) -> tuple[Path, ...]:
        """Return the model's files."""
        return self._model.files

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor."""
        shape = self._model.shape(name)
        return (self._alignment.n_rows, *shape[1:]) if name in self._rows else shape

    def dtype(self, name: str) -> torch.dtype:
        """Return the dtype of a tensor; for embeddings, one that can represent those of all models."""
        if name not in self._rows:
            return self._model.dtype(name)
        wide = self._model.dtype(name)
        for model in self._models.values():
            if name in model.names:
                wide = torch.promote_types(wide, model.dtype(name))
        return wide

    def tensor(self, name: str) -> Tensor:
        """Return a tensor on the CPU, read-only; embeddings are assembled once and cached."""
        if name not in self._rows:
            return self._model.tensor(name)
        if name not in self._made:
            self._made[name] = self._aligned(name)
        return self._made[name]

    def made(self, name: str) -> bool:
        """Return whether the underlying model computes a tensor; embeddings are cached."""
        return name not in self._rows and self._model.made(name)

    @property
    def held_bytes(self) -> int:
        """Return the bytes of the embeddings, and of the tensors that the underlying model caches."""
        own = sum(math.prod(self.shape(name)) * self.dtype(name).itemsize for name in self._rows)
        return own + self._model.held_bytes

    def factors(self, name: str, base: Model) -> Factors | None:
        """Return the change to the aligned base, except for embeddings."""
        if not isinstance(base, Aligned) or name in self._rows:
            return None
        return self._model.factors(name, base._model)

    def sha256(self, digest: Digest = digest_of) -> dict[str, str]:
        """Return the SHA-256 of every file by name."""
        return self._model.sha256(digest)

    def _aligned(self, name: str) -> Tensor:
        plan = self._alignment
        rows = torch.from_numpy(plan.rows[self._label])
        own = self._model.tensor(name).to(self.dtype(name))
        out = own[rows.clamp_min(0)]
        out[rows < 0] = 0
        for row, donors in plan.donors.items():
            if rows[row] < 0 or row in plan.forced:
                out[row] = self._mean(name, donors, out[row])
        out[plan.n_tokens :] = out[: plan.n_tokens].mean(0)
        return out

    def _mean(self, name: str, donors: Donors, like: Tensor) -> Tensor:
        total = torch.zeros_like(like)
        for label, row in donors:
            model = self._models[label]
            if name not in model.names or row >= model.shape(name)[0]:
                raise CheckpointError(f"{label} ({model.path}) has no row {row} of {name}, which other models need.")
            total = total + model.tensor(name)[row]
        return total / max(len(donors), 1)


def _vocabulary_tensors(model: Model) -> Sequence[str]:
    """Return the names of the embeddings and of the output bias, if there is one."""
    matrices = model.vocabulary_matrices()
    n_rows = model.shape(matrices[0])[0] if matrices else -1
    layout = model.layout()
    biases = [
        name
        for name, component in zip(layout.names, layout.components, strict=True)
        if component == "head" and model.shape(name) == (n_rows,)
    ]
    return [*matrices, *biases]
