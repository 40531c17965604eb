"""RAM: average where models overlap, keep unique changes (Yuan et al., 2026). https://arxiv.org/abs/2601.13572."""

from collections.abc import Mapping, Sequence
from typing import Annotated

from torch import Tensor

from evomerge.merging.kernels.combination import one_model
from evomerge.merging.method import BASE, Bounds, Contraction, CopyOf, PerInput, Shared, merge_method
from evomerge.merging.methods._overlap import average_of_changes, slopes_of_changes
from evomerge.merging.methods._weights import taking_part
from evomerge.merging.tiles import TensorSource, Tile

Weight = Annotated[PerInput, Bounds(1.0, 0.0, 1.0)]
Scale = Annotated[Shared, Bounds(1.0, 0.3, 2.0)]
Epsilon = Annotated[Shared, Bounds(1e-5, 1e-5, 1e-5)]


def _exact(source: TensorSource, *, weight: Weight, scale: Scale, epsilon: Epsilon) -> CopyOf | None:
    if not taking_part(source, weight) or scale == 0:
        return CopyOf(BASE)
    return one_model(weight) if scale == 1 and epsilon == 0 else None


def _slopes(
    deltas: Sequence[Tensor], gradient: Tensor, *, weight: Weight, scale: Scale, epsilon: Epsilon, tile: Tile
) -> Mapping[str, float | list[float]]:
    by_result = tile.scratch("gradient", gradient).copy_(gradient)
    by_weight, by_scale = slopes_of_changes(deltas, weight, by_result, epsilon, tile)
    return {"weight": [scale * slope for slope in by_weight], "scale": by_scale}


@merge_method(
    operates_on="deltas",
    reference="https://arxiv.org/abs/2601.13572",
    prepare=_exact,
    linear_in=("scale",),
    gradient=Contraction(("weight", "scale"), _slopes),
)
def ram(deltas: Sequence[Tensor], *, weight: Weight, scale: Scale, epsilon: Epsilon, tile: Tile) -> Tensor:
    """Average each element over the models that change it by more than `epsilon`: a unique change is kept in full.

    Signs are ignored. The published method has neither weights nor scale: they are 1.
    """
    return average_of_changes(deltas, weight, epsilon, tile).mul_(scale)
