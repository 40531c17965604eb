"""Pruned LoRA factors: `magnitude_prune` of PEFT (Mangrulkar et al., 2022). https://github.com/huggingface/peft."""

from collections.abc import Sequence
from typing import Annotated

from torch import Tensor

from evomerge.merging.kernels.combination import one_model
from evomerge.merging.kernels.lora_parts import NO_GRADIENT, Part, keep_largest, merge_parts, weighted
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
    reference="https://github.com/huggingface/peft",
    gradient=NO_GRADIENT,
    prepare=_sole,
    whole=True,
)
def lora_magnitude_prune(
    deltas: Sequence[Tensor], *, weight: Weight, density: Density, source: TensorSource, tile: Tile
) -> Tensor:
    """The int(density * numel) largest elements of each A and each B, summed like lora_linear.

    Changes without factors are pruned and summed directly.
    """

    def pruned(part: Part) -> Tensor:
        for value, index in zip(part.values, part.inputs, strict=True):
            keep_largest(value, density[index])
        return weighted(part)

    return merge_parts(deltas, weight, source, tile, "lora_magnitude_prune", pruned)
