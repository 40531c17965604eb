"""TIES: trim, elect a sign, merge those who agree (Yadav et al., 2023). https://arxiv.org/abs/2306.01708."""

from collections.abc import Sequence
from typing import Annotated

from torch import Tensor

from evomerge.merging.combination import one_model
from evomerge.merging.consensus import Compat, Election, elect
from evomerge.merging.method import BASE, Bounds, CopyOf, PerInput, Shared, merge_method
from evomerge.merging.sparsify import Cut, largest, trim
from evomerge.merging.tiles import Source, Tile

Weight = Annotated[PerInput, Bounds(1.0, 0.0, 1.0)]
Scale = Annotated[Shared, Bounds(1.0, 0.3, 2.2)]


def _cuts(
    source: Source,
    *,
    weight: Weight,
    density: Annotated[PerInput, Bounds(0.5, 0.05, 1.0)],
    scale: Scale,
    compat: Compat = "mergekit",
) -> CopyOf | tuple[Cut | None, ...]:
    if scale == 0 or not any(weight):
        return CopyOf(BASE)
    untrimmed = all(value == 1 for value in density)
    alone = one_model(weight) if untrimmed and scale == 1 and compat == "mergekit" else None
    return alone or tuple(largest(source, index, value) for index, value in enumerate(density))


@merge_method(
    operates_on="deltas",
    reference="https://arxiv.org/abs/2306.01708",
    prepare=_cuts,
    linear_in=("scale",),
)
def ties(
    deltas: Sequence[Tensor],
    *,
    weight: Weight,
    scale: Scale,
    normalize: bool = True,
    compat: Compat = "mergekit",
    election: Election = "total",
    prepared: tuple[Cut | None, ...],
    tile: Tile,
) -> Tensor:
    """Keep the int(density * numel) largest of each delta per tensor, elect signs, average who agrees, scale.

    compat: who votes and what divides, see `consensus`; both trim per tensor, not over the whole model.
    """
    trimmed = [trim(delta, cut, tile) for delta, cut in zip(deltas, prepared, strict=True)]
    merged = elect(trimmed, weight, tile, normalize=normalize, compat=compat, election=election)
    return merged.mul_(scale)
