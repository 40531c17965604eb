"""NegMerge: unlearn the directions that several models agree on (Kim et al., 2025). https://arxiv.org/abs/2410.05583."""

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor

from evomerge.merging.kernels.combination import combine
from evomerge.merging.method import BASE, Bounds, Combination, CopyOf, PerInput, Shared, merge_method
from evomerge.merging.methods._weights import in_proportion, taking_part
from evomerge.merging.tiles import TensorSource, Tile

Weight = Annotated[PerInput, Bounds(1.0, 0.0, 1.0)]
#: Published: the largest of 21 values from 0 to 1 that costs at most 5 % of the accuracy on retained tasks.
Scale = Annotated[Shared, Bounds(0.5, 0.0, 1.0)]


def _coefficients(source: TensorSource, *, weight: Weight, scale: Scale) -> CopyOf | tuple[float, ...]:
    if not taking_part(source, weight) or scale == 0:
        return CopyOf(BASE)
    return tuple(-scale * value for value in in_proportion(source, weight))


def _agreed(deltas: Sequence[Tensor], prepared: Sequence[float], tile: Tile) -> Tensor:
    """Return 1 where all models with a weight have the same sign, else 0, in memory that the next call reuses."""
    used = [index for index, value in enumerate(prepared) if value]
    lowest, highest = (tile.scratch(key, deltas[0]).copy_(deltas[used[0]]) for key in ("lowest", "highest"))
    for index in used[1:]:
        torch.minimum(lowest, deltas[index], out=lowest)
        torch.maximum(highest, deltas[index], out=highest)
    return lowest.sign_().mul_(highest.sign_()).relu_()


def _agreeing(deltas: Sequence[Tensor], *, prepared: tuple[float, ...], tile: Tile) -> list[Tensor]:
    agreed = _agreed(deltas, prepared, tile)
    return [delta.mul_(agreed) for delta in deltas]


@merge_method(
    operates_on="deltas",
    reference="https://arxiv.org/abs/2410.05583",
    prepare=_coefficients,
    linear_in=("scale",),
    gradient=Combination(("weight", "scale"), terms=_agreeing),
)
def neg_merge(deltas: Sequence[Tensor], *, prepared: tuple[float, ...], tile: Tile) -> Tensor:
    """Base - scale * average of the deltas, where all of them have the same sign and none is zero.

    The inputs are models fine-tuned on the knowledge to forget. A model with weight zero does not vote on
    the agreement either.
    """
    agreed = _agreed(deltas, prepared, tile)
    return combine(deltas, prepared).mul_(agreed)
