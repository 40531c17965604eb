"""LoRA factors merged by DARE and TIES (Yu et al., 2024), like PEFT's `dare_ties`. https://arxiv.org/abs/2311.03099."""

from collections.abc import Sequence
from typing import Annotated

from torch import Tensor

from evomerge.merging.kernels.consensus import Election
from evomerge.merging.kernels.lora_parts import NO_GRADIENT, elected, merge_parts, thinned
from evomerge.merging.method import BASE, SHARE, Bounds, CopyOf, PerInput, merge_method
from evomerge.merging.tiles import TensorSource, Tile

Weight = Annotated[PerInput, Bounds(1.0, 0.0, 1.0)]
Density = Annotated[PerInput, Bounds(0.5, 0.05, 1.0, allowed=SHARE)]


def _none(_source: TensorSource, *, weight: Weight) -> CopyOf | None:
    return None if any(weight) else CopyOf(BASE)


@merge_method(
    operates_on="deltas",
    reference="https://arxiv.org/abs/2311.03099",
    gradient=NO_GRADIENT,
    prepare=_none,
    whole=True,
    random=True,
)
def lora_dare_ties(
    deltas: Sequence[Tensor],
    *,
    weight: Weight,
    density: Density,
    election: Election = "total",
    source: TensorSource,
    tile: Tile,
) -> Tensor:
    """A and B sparsified at random like lora_dare_linear, then signs elected and averaged like lora_ties."""
    return merge_parts(
        deltas, weight, source, tile, "lora_dare_ties", lambda part: elected(thinned(part, density), election)
    )
