"""Fisher-weighted averaging (Matena and Raffel, 2021). https://arxiv.org/abs/2111.09832."""

from collections.abc import Iterator, Sequence
from operator import attrgetter
from typing import Literal

from torch import Tensor

from evomerge.merging.kernels.combination import combine
from evomerge.merging.kernels.information import Average, average, scales
from evomerge.merging.method import Combination, merge_method
from evomerge.merging.tiles import Tile

Compat = Literal["official", "mergelm"]


def _information(weights: Sequence[Tensor], compat: Compat, prepared: Average, tile: Tile) -> Iterator[Tensor]:
    """Yield the information of each model, floored, in memory that the next one reuses."""
    for moment, floor in zip(prepared.fishers, prepared.floors, strict=True):
        part = tile.scratch("part", weights[0]).copy_(moment[tile.start : tile.stop])
        yield part.clamp_min_(floor) if compat == "official" else part.clamp_min_(0.0).add_(floor)


def _by_coefficient(
    weights: Sequence[Tensor], *, compat: Compat = "official", prepared: Average, tile: Tile
) -> Iterator[Tensor]:
    """Yield the derivative of the average by each coefficient: its share times the distance from the average."""
    if not prepared.fishers:
        yield from weights
        return
    average, divisor = _sums(weights, compat, prepared, tile)
    average.div_(divisor)
    for model, part in zip(weights, _information(weights, compat, prepared, tile), strict=True):
        yield model.sub_(average).mul_(part).div_(divisor)


def _sums(weights: Sequence[Tensor], compat: Compat, prepared: Average, tile: Tile) -> tuple[Tensor, Tensor]:
    """Return the sum of coefficient times information times model, and that of coefficient times information."""
    divisor = tile.scratch("divisor", weights[0]).zero_()
    merged = tile.scratch("merged", weights[0]).zero_()
    parts = _information(weights, compat, prepared, tile)
    for model, part, coefficient in zip(weights, parts, prepared.coefficients, strict=True):
        divisor.add_(part.mul_(coefficient))
        merged.add_(part.mul_(model))
    return merged, divisor


@merge_method(
    operates_on="weights",
    reference="https://arxiv.org/abs/2111.09832",
    survey=scales,
    prepare=average,
    gradient=Combination(("weight",), terms=_by_coefficient, coefficients=attrgetter("coefficients")),
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
    merged, divisor = _sums(weights, compat, prepared, tile)
    return merged.div_(divisor)
