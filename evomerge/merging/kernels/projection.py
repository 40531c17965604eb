"""Sums of deltas in which each next one is projected away from the previous sum, and their progress."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from evomerge.merging.kernels.remembered import remembered
from evomerge.merging.kernels.spectral import is_spectral, spectrum
from evomerge.merging.tiles import TensorSource

Compat = Literal["official", "paper"]


@dataclass(frozen=True)
class Progress:
    """The progress of a sequence of merges.

    models: number merged so far. raw: factor from the merged delta to the sum of all models' contributions.
    norm: mean norm of the models' deltas, which the merged delta has. first, entered: the first input, and
    its `raw` on entering.
    """

    models: int
    raw: float
    norm: float
    first: str
    entered: float

    @property
    def state(self) -> dict[str, float]:
        """Return the options with which a later merge continues, with this result (at scale 1) as its first input."""
        return {"earlier_models": self.models, "earlier_raw": self.raw, "earlier_norm": self.norm}


def projected_sum(
    deltas: Sequence[Tensor],
    source: TensorSource,
    first: str,
    entered: float,
    alpha: float,
    exclude: str,
    compat: Compat,
) -> Tensor:
    """Return the sum of all models' contributions, in order, in float32: rescaling the sum at each step cancels.

    first, entered: as in Progress. Matrices are projected unless their names match `exclude`; other tensors are
    summed directly.
    """

    def make() -> Tensor:
        total = deltas[0].double() * (entered if source.input_names[0] == first else 1.0)
        for index in range(1, len(deltas)):
            delta = deltas[index].double()
            total += _projected(delta, total, alpha, compat) if is_spectral(source, exclude) else delta
        return total.float()

    return remembered(source.cache, "projected sum", (entered, alpha, exclude, compat), make)


def _projected(delta: Tensor, merged: Tensor, alpha: float, compat: Compat) -> Tensor:
    """Return the part of `delta` outside the leading block of `merged` and all of its singular triplets."""
    found = spectrum(merged)
    if not len(found.values):
        return delta
    along = found.left.T @ delta @ found.right.T
    split = _split(found.values, alpha, compat)
    taken = torch.diag(along.diagonal())
    taken[:split, :split] = along[:split, :split]
    rest: Tensor = delta - found.left @ taken @ found.right
    return rest


def _split(values: Tensor, alpha: float, compat: Compat) -> int:
    """Return the number of leading triplets excluded for the next model."""
    above = (values.cumsum(0) / values.sum() > alpha).nonzero()
    if compat == "official":
        return int(above[0]) if len(above) and alpha < 1 else 0
    return int(above[0]) + 1 if len(above) else len(values)
