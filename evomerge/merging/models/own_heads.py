"""Classification heads with other numbers of outputs: each stays with its model, and only the bodies are merged."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from evomerge.merging.factors import Factors
from evomerge.merging.models.hashing import Digest, digest_of
from evomerge.merging.models.model import Model

#: Number of labels of a configuration that names none, as in transformers.
_LABELS = 2


def heads_apart(base: Model, inputs: Mapping[str, Model]) -> dict[str, tuple[str, ...]]:
    """Return, by input, the tensors with one row per label, where its number of labels is not the base's.

    Inputs with as many labels as the base, or with tensors of other shapes besides these, are omitted.
    """
    found = {}
    ours = _n_labels(base)
    for label, model in inputs.items():
        theirs = _n_labels(model)
        if ours is None or theirs is None or ours == theirs:
            continue
        names = set(model.names)
        differing = [n for n in base.names if n in names and base.mergeable(n) and base.shape(n) != model.shape(n)]
        shapes = [(base.shape(name), model.shape(name)) for name in differing]
        if differing and all(a[:1] == (ours,) and b[:1] == (theirs,) and a[1:] == b[1:] for a, b in shapes):
            found[label] = tuple(differing)
    return found


def notes_on_heads(heads: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Return a warning about heads that are not merged."""
    if not heads:
        return ()
    names = ", ".join(dict.fromkeys(name for kept in heads.values() for name in kept))
    said = (
        f"{', '.join(heads)}: another number of labels than the base's, so {names} are not merged: merges keep the "
        "base's, and tasks score with that of an expert by `head: NAME`"
    )
    return (said,)


def _n_labels(model: Model) -> int | None:
    """Return the number of labels of a model that classifies; None for any other."""
    config = model.config or {}
    names = config.get("architectures")
    if not isinstance(names, list) or not any("Classification" in str(name) for name in names):
        return None
    labels = config.get("id2label")
    return len(labels) if isinstance(labels, Mapping) and labels else int(config.get("num_labels", _LABELS))


class WithHeadApart(Model):
    """A base with tensors that are not merged: the result has the base's own."""

    def __init__(self, base: Model, apart: tuple[str, ...]) -> None:
        self.path: Path = base.path
        self.config = base.config
        self.names = base.names
        self._base = base
        self._apart = frozenset(apart)

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that the weights are read from."""
        return self._base.files

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor."""
        return self._base.shape(name)

    def dtype(self, name: str) -> torch.dtype:
        """Return the dtype of a tensor as stored."""
        return self._base.dtype(name)

    def tensor(self, name: str) -> Tensor:
        """Return a tensor on the CPU; read-only."""
        return self._base.tensor(name)

    def sha256(self, digest: Digest = digest_of) -> dict[str, str]:
        """Return the SHA-256 of every file by name."""
        return self._base.sha256(digest)

    def factors(self, name: str, base: Model) -> Factors | None:
        """Return a matrix's change relative to `base` as factors, or None."""
        return self._base.factors(name, base)

    def made(self, name: str) -> bool:
        """Return whether a tensor is computed each time it is read."""
        return self._base.made(name)

    @property
    def held_bytes(self) -> int:
        """Return the bytes of the tensors that the base caches."""
        return self._base.held_bytes

    def fingerprint(self) -> str:
        """Return the fingerprint of the base."""
        return self._base.fingerprint()

    def mergeable(self, name: str) -> bool:
        """Return whether a tensor is merged."""
        return name not in self._apart and self._base.mergeable(name)
