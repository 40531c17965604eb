"""LoRA factors merged by TIES (Yadav et al., 2023), like PEFT's `ties`. https://arxiv.org/abs/2306.01708."""

from collections.abc import Sequence
from typing import Annotated

from torch import Tensor

from evomerge.merging.kernels.consensus import Election
from evomerge.merging.kernels.lora_parts import NO_GRADIENT, Part, elected, keep_largest, merge_parts
from evomerge.merging.method import BASE, SHARE, Bounds, CopyOf, PerInput, merge_method
from evomerge.merging.tiles import TensorSource, Tile

Weight = Annotated[PerInput, Bounds(1.0, 0.0, 1.0)]
Density = Annotated[PerInput, Bounds(0.5, 0.05, 1.0, allowed=SHARE)]


def _none(_source: TensorSource, *, weight: Weight) -> CopyOf | None:
    return None if any(weight) else CopyOf(BASE)


@merge_method(
    operates_on="deltas",
    reference="https://arxiv.org/abs/2306.01708",
    gradient=NO_GRADIENT,
    prepare=_none,
    whole=True,
)
def lora_ties(
    deltas: Sequence[Tensor],
    *,
    weight: Weight,
    density: Density,
    election: Election = "total",
    source: TensorSource,
    tile: Tile,
) -> Tensor:
    """Trim, elect signs and average agreeing values, on A and B of adapters of one rank, with square roots of weights.

    All adapters vote, even with weight zero. Changes without factors are merged directly in the same way.
    """

    def merged(part: Part) -> Tensor:
        for value, index in zip(part.values, part.inputs, strict=True):
            keep_largest(value, density[index])
        return elected(part, election)

    return merge_parts(deltas, weight, source, tile, "lora_ties", merged)
