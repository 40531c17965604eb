"""Weighted sums of LoRA factors: `linear` of PEFT (Mangrulkar et al., 2022). https://github.com/huggingface/peft."""

from collections.abc import Sequence
from typing import Annotated

from torch import Tensor

from evomerge.merging.kernels.combination import one_model
from evomerge.merging.kernels.lora_parts import NO_GRADIENT, merge_parts, weighted
from evomerge.merging.method import Bounds, CopyOf, PerInput, merge_method
from evomerge.merging.tiles import TensorSource, Tile

Weight = Annotated[PerInput, Bounds(1.0, -1.0, 1.5)]


def _sole(_source: TensorSource, *, weight: Weight) -> CopyOf | None:
    return one_model(weight)


@merge_method(
    operates_on="deltas",
    reference="https://github.com/huggingface/peft",
    gradient=NO_GRADIENT,
    prepare=_sole,
    whole=True,
)
def lora_linear(deltas: Sequence[Tensor], *, weight: Weight, source: TensorSource, tile: Tile) -> Tensor:
    """A and B of adapters of one rank, summed with the square roots of the weights; their product mixes the adapters.

    Changes without factors (full models, DoRA, biases) are summed directly.

    compat: for the exact sum use task_arithmetic: PEFT's `cat`, or written with `--lora RANK` its `svd`. Likewise ties
    (compat: peft), dare_linear, dare_ties (compat: peft) and magnitude_prune are its types `..._svd`.
    """
    return merge_parts(deltas, weight, source, tile, "lora_linear", weighted)
