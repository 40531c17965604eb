"""Mediator's selection per layer, by conflict (Lai et al., 2025). https://arxiv.org/abs/2502.04411."""

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Literal, NamedTuple

import torch
from torch import Tensor

from evomerge.merging.kernels.combination import combine, one_model
from evomerge.merging.kernels.remembered import remembered
from evomerge.merging.method import BASE, Bounds, Combination, CopyOf, PerInput, Shared, SumOf, merge_method
from evomerge.merging.methods._weights import in_proportion, taking_part
from evomerge.merging.tiles import TensorSource, Tile, total

Weight = Annotated[PerInput, Bounds(1.0, 0.0, 1.0)]
Threshold = Annotated[Shared, Bounds(0.5, 0.0, 1.0)]
Score = Literal["signs", "magnitudes"]


class _Conflict(NamedTuple):
    signs: float
    magnitudes: float
    #: Squared length of every input's delta.
    squares: tuple[float, ...]


def _choice(source: TensorSource, *, weight: Weight, threshold: Threshold, score: Score = "signs") -> CopyOf | SumOf:
    part = taking_part(source, weight)
    if not part:
        return CopyOf(BASE)
    shares = in_proportion(source, weight)
    found = remembered(source.cache, "mediator", part, partial(_conflict, source, part), keep=4)
    if (found.signs if score == "signs" else found.magnitudes) > threshold:
        lengths = [share * square**0.5 for share, square in zip(shares, found.squares, strict=True)]
        return CopyOf(lengths.index(max(lengths)))
    return one_model(shares) or SumOf(shares)


def _conflict(source: TensorSource, part: tuple[int, ...]) -> _Conflict:
    def measure(tile: Tile) -> list[float]:
        base = source.base(tile)
        deltas = [source.deltas(index, tile, base) for index in part]
        squares = [total(delta * delta) for delta in deltas]
        return [*_opposed(deltas), *_cancelled(deltas), *squares]

    opposed, met, left, there, *squares = (sum(column) for column in zip(*source.map(measure), strict=True))
    by_input = dict(zip(part, squares, strict=True))
    return _Conflict(
        signs=opposed / met if met else 0.0,
        magnitudes=1 - left / there if there else 0.0,
        squares=tuple(by_input.get(index, 0.0) for index in range(len(source.input_names))),
    )


def _opposed(deltas: Sequence[Tensor]) -> tuple[float, float]:
    """Return the number of elements that two models move in opposite directions, and that two models move at all."""
    signs = torch.stack([delta.sign() for delta in deltas])
    opposed = signs.amax(0).sub_(signs.amin(0)).eq(2)
    met = signs.abs_().sum(0).ge(2)
    return float(torch.count_nonzero(opposed)), float(torch.count_nonzero(met))


def _cancelled(deltas: Sequence[Tensor]) -> tuple[float, float]:
    """Return the absolute value of the sum and the sum of absolute values, each summed over the elements."""
    stacked = torch.stack(list(deltas))
    return total(stacked.sum(0).abs_()), total(stacked.abs_().sum(0))


@merge_method(
    operates_on="deltas",
    reference="https://arxiv.org/abs/2502.04411",
    prepare=_choice,
    gradient=Combination(("weight",)),
)
def mediator(deltas: Sequence[Tensor], *, prepared: SumOf) -> Tensor:
    """Average a tensor over the models if their conflict is at most `threshold`; above it, use that of one model.

    That model has the largest weight times delta length.
    score: conflict from 0 to 1: "signs" is the fraction of elements, among those changed by at least two models, that
    two models move in opposite directions; "magnitudes" is the fraction of absolute values that cancels in the sum.
    Only the decision whether to average is Mediator's; it routes its input to one of several experts, whereas this
    method selects one permanently, and its own score and threshold are not known here.
    """
    return combine(deltas, prepared.coefficients)
