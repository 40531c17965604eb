"""Magnitude pruning of deltas (PEFT's magnitude_prune; Han et al., 2015). https://arxiv.org/abs/1506.02626."""

from collections.abc import Sequence
from operator import itemgetter
from typing import Annotated

from torch import Tensor

from evomerge.merging.kernels.combination import combine, one_model
from evomerge.merging.kernels.sparsify import Cut, cut_mask, largest, trim
from evomerge.merging.method import BASE, SHARE, Bounds, Combination, CopyOf, PerInput, Shared, Sparse, merge_method
from evomerge.merging.tiles import TensorSource, Tile

Weight = Annotated[PerInput, Bounds(1.0, -1.0, 1.5)]
Density = Annotated[PerInput, Bounds(0.5, 0.05, 1.0, allowed=SHARE)]
#: The same direction as scaling all weights, hence not searched.
Scale = Annotated[Shared, Bounds(1.0, 1.0, 1.0)]

Prepared = tuple[tuple[float, ...], tuple[Cut | None, ...]]


def _cuts(source: TensorSource, *, weight: Weight, density: Density, scale: Scale) -> CopyOf | Prepared:
    coefficients = tuple(scale * value for value in weight)
    if not any(coefficients):
        return CopyOf(BASE)
    cuts = tuple(largest(source, index, value) for index, value in enumerate(density))
    alone = one_model(coefficients) if cuts == (None,) * len(cuts) else None
    return alone or (coefficients, cuts)


def _trimmed(deltas: Sequence[Tensor], *, prepared: Prepared, tile: Tile) -> list[Tensor]:
    return [trim(delta, cut, tile) for delta, cut in zip(deltas, prepared[1], strict=True)]


def _sparse(source: TensorSource, *, prepared: Prepared) -> Sparse:
    coefficients, cuts = prepared
    return Sparse([cut_mask(cut, source) for cut in cuts], coefficients)


@merge_method(
    operates_on="deltas",
    reference="https://arxiv.org/abs/1506.02626",
    prepare=_cuts,
    linear_in=("weight", "scale"),
    gradient=Combination(("weight", "scale"), terms=_trimmed, coefficients=itemgetter(0)),
    fused=_sparse,
)
def magnitude_prune(deltas: Sequence[Tensor], *, prepared: Prepared, tile: Tile) -> Tensor:
    """Base + scale * sum of weight times the int(density * numel) largest elements of each delta, per tensor.

    PEFT prunes the two factors of an adapter separately; this prunes the delta itself.
    """
    return combine(_trimmed(deltas, prepared=prepared, tile=tile), prepared[0])
