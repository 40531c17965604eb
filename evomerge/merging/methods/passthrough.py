"""Passthrough: one model's tensors unchanged, or scaled (frankenmerges). https://arxiv.org/abs/2312.15166."""

from collections.abc import Sequence
from typing import Annotated

from torch import Tensor

from evomerge.merging.method import Bounds, CopyOf, PerInput, merge_method
from evomerge.merging.tiles import TensorSource

Scale = Annotated[PerInput, Bounds(1.0, 0.0, 2.0)]


def _untouched(_source: TensorSource, *, scale: Scale) -> CopyOf | None:
    return CopyOf(0) if scale[0] == 1 else None


@merge_method(
    operates_on="weights",
    reference="https://arxiv.org/abs/2312.15166",
    prepare=_untouched,
    max_inputs=1,
    linear_in=("scale",),
)
def passthrough(weights: Sequence[Tensor], *, scale: Scale) -> Tensor:
    """The single input times `scale`: 0 on the output projections of a block disables the block."""
    return weights[0].mul_(scale[0])
