"""LoRA factors merged by DARE (Yu et al., 2024), like PEFT's `dare_linear`. https://arxiv.org/abs/2311.03099."""

from collections.abc import Sequence
from typing import Annotated

from torch import Tensor

from evomerge.merging.kernels.combination import one_model
from evomerge.merging.kernels.lora_parts import NO_GRADIENT, merge_parts, thinned, weighted
from evomerge.merging.method import BASE, SHARE, Bounds, CopyOf, PerInput, merge_method
from evomerge.merging.tiles import TensorSource, Tile

Weight = Annotated[PerInput, Bounds(1.0, -1.0, 1.5)]
Density = Annotated[PerInput, Bounds(0.5, 0.05, 1.0, allowed=SHARE)]


def _sole(_source: TensorSource, *, weight: Weight, density: Density) -> CopyOf | None:
    if not any(weight):
        return CopyOf(BASE)
    return one_model(weight) if all(share == 1 for share in density) else None


@merge_method(
    operates_on="deltas",
    reference="https://arxiv.org/abs/2311.03099",
    gradient=NO_GRADIENT,
    prepare=_sole,
    whole=True,
    random=True,
)
def lora_dare_linear(
    deltas: Sequence[Tensor], *, weight: Weight, density: Density, source: TensorSource, tile: Tile
) -> Tensor:
    """Elements of A and B dropped at random, the rest divided by the density, then summed like lora_linear.

    Changes without factors are sparsified and summed directly.
    """
    return merge_parts(deltas, weight, source, tile, "lora_dare_linear", lambda part: weighted(thinned(part, density)))
