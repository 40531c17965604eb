"""Deltas within masks that were learned from data (Panigrahi et al., 2023). https://arxiv.org/abs/2302.06600."""

from collections.abc import Sequence
from operator import itemgetter
from typing import Annotated

from torch import Tensor

from evomerge.merging.kernels.combination import combine
from evomerge.merging.method import BASE, Bounds, Combination, CopyOf, MethodError, PerInput, merge_method
from evomerge.merging.moments import command_for, input_moments
from evomerge.merging.tiles import TensorSource, Tile

Weight = Annotated[PerInput, Bounds(1.0, 0.0, 1.5)]

Prepared = tuple[tuple[float, ...], tuple[Tensor, ...]]


def _masks(source: TensorSource, *, weight: Weight) -> CopyOf | Prepared:
    if not any(weight):
        return CopyOf(BASE)
    masks = input_moments(source, "mask", source.shape)
    if masks is None:
        raise MethodError(
            f"{source.tensor}: the masks of the inputs do not have this tensor. Learn them on the models that are "
            f"merged: `{command_for('mask')}`."
        )
    return tuple(weight), tuple(mask.reshape(-1) for mask in masks)


def _within(deltas: Sequence[Tensor], *, prepared: Prepared, tile: Tile) -> list[Tensor]:
    part = slice(tile.start, tile.stop)
    # Booleans multiply as 0 and 1.
    return [delta.mul_(mask[part].to(delta.device)) for delta, mask in zip(deltas, prepared[1], strict=True)]


@merge_method(
    operates_on="deltas",
    reference="https://arxiv.org/abs/2302.06600",
    prepare=_masks,
    linear_in=("weight",),
    gradient=Combination(("weight",), terms=_within, coefficients=itemgetter(0)),
    needs=("mask",),
)
def masked(deltas: Sequence[Tensor], *, prepared: Prepared, tile: Tile) -> Tensor:
    """Base + sum of weight times each delta times its mask, element by element.

    `evomerge tools mask` learns the masks: of each model the few elements that hold its skill (graft), or one mask for
    all that removes interference (https://arxiv.org/abs/2312.06173), and writes them as statistics of the inputs.
    """
    return combine(_within(deltas, prepared=prepared, tile=tile), prepared[0])
