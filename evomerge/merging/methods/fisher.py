"""Fisher-weighted averaging (Matena and Raffel, 2021). https://arxiv.org/abs/2111.09832."""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from evomerge.merging.kernels.combination import combine
from evomerge.merging.kernels.information import Average, average, scales
from evomerge.merging.method import merge_method
from evomerge.merging.tiles import Tile

Compat = Literal["official", "mergelm"]


@merge_method(
    operates_on="weights",
    reference="https://arxiv.org/abs/2111.09832",
    survey=scales,
    prepare=average,
    needs=("fisher",),
)
def fisher(weights: Sequence[Tensor], *, compat: Compat = "official", prepared: Average, tile: Tile) -> Tensor:
    """Average of the models per element, weighted by Fisher information divided by its norm over the whole model.

    normalize: whether to divide by that norm. floor: minimum Fisher information, absolute or with relative_floor
    in units of the model's mean: that of large models may be below the published 1e-6, and if all of them are
    floored, the result is the plain average. target: name of the only input that gets the floor, so that elements
    without information from any other model keep that input's value. Tensors without statistics get the weighted
    average.

    compat: "official" takes the maximum with the floor, "mergelm" adds it; both before the division by the norm.
    """
    if not prepared.fishers:
        return combine(weights, prepared.coefficients)
    part, divisor = tile.scratch("part", weights[0]), tile.scratch("divisor", weights[0]).zero_()
    merged = tile.scratch("merged", weights[0]).zero_()
    for model, moment, coefficient, floor in zip(
        weights, prepared.fishers, prepared.coefficients, prepared.floors, strict=True
    ):
        part.copy_(moment[tile.start : tile.stop])
        part = part.clamp_min_(floor) if compat == "official" else part.clamp_min_(0.0).add_(floor)
        divisor.add_(part.mul_(coefficient))
        merged.addcmul_(part, model)
    return merged.div_(divisor)
