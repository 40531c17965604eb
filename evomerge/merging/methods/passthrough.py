"""Passthrough: one model's tensors unchanged, or scaled (frankenmerges). https://arxiv.org/abs/2312.15166."""

from collections.abc import Sequence
from typing import Annotated

from torch import Tensor

from evomerge.merging.kernels.combination import combine
from evomerge.merging.method import Bounds, Combination, CopyOf, PerInput, SumOf, merge_method
from evomerge.merging.tiles import TensorSource

Scale = Annotated[PerInput, Bounds(1.0, 0.0, 2.0)]


def _coefficient(_source: TensorSource, *, scale: Scale) -> CopyOf | SumOf:
    return CopyOf(0) if scale[0] == 1 else SumOf(tuple(scale))


@merge_method(
    operates_on="weights",
    reference="https://arxiv.org/abs/2312.15166",
    prepare=_coefficient,
    max_inputs=1,
    linear_in=("scale",),
    gradient=Combination(("scale",)),
)
def passthrough(weights: Sequence[Tensor], *, prepared: SumOf) -> Tensor:
    """The single input times `scale`: 0 on the output projections of a block disables the block."""
    return combine(weights, prepared.coefficients)
