"""Sparse model soups: averages that remain pruned (Zimmer et al., 2024). https://arxiv.org/abs/2306.16788."""

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Literal

import torch
from torch import Tensor

from evomerge.merging.kernels.combination import combine, sole_input
from evomerge.merging.kernels.remembered import remembered
from evomerge.merging.method import Bounds, Combination, CopyOf, MethodError, PerInput, merge_method
from evomerge.merging.methods._weights import in_proportion, taking_part
from evomerge.merging.tiles import TensorSource, Tile

Weight = Annotated[PerInput, Bounds(1.0, 0.0, 1.0)]
Masks = Literal["equal", "intersect", "union"]


def _coefficients(source: TensorSource, *, weight: Weight, masks: Masks = "equal") -> CopyOf | tuple[float, ...]:
    part = taking_part(source, weight)
    if not part:
        raise MethodError(f"{source.tensor}: the weights {list(weight)} add up to 0 and cannot be normalized.")
    coefficients = in_proportion(source, weight)
    sole = sole_input(coefficients)
    if sole is not None:
        return CopyOf(sole)
    if source.identical:
        return CopyOf(0)
    if masks == "equal":
        _check_masks(source, part)
    return coefficients


def _check_masks(source: TensorSource, part: tuple[int, ...]) -> None:
    differing = remembered(source.cache, "sparse_soup", part, partial(_differing, source, part), keep=4)
    other = next((index for index in part if differing[index]), None)
    if other is not None:
        first, name = source.input_names[part[0]], source.input_names[other]
        raise MethodError(
            f"{source.tensor}: {first!r} and {name!r} have different pruning masks: {differing[other]} of "
            f"{source.numel} elements are zero in only one of them. Merge models of one pruned parent, or set "
            f"masks: intersect (zero where any is) or masks: union (zero where all are)."
        )


def _differing(source: TensorSource, part: tuple[int, ...]) -> dict[int, int]:
    """Return input -> number of elements that are zero in either it or the first input, but not in both."""

    def count(tile: Tile) -> list[int]:
        first = source.weights(part[0], tile).eq(0)
        return [int(torch.count_nonzero(source.weights(index, tile).eq(0) != first)) for index in part]

    counts = zip(*source.map(count), strict=True)
    return {index: sum(column) for index, column in zip(part, counts, strict=True)}


def _kept(weights: Sequence[Tensor], prepared: Sequence[float], tile: Tile) -> Tensor:
    """Return 1 where no model with a weight is zero, else 0, in memory that the next call reuses."""
    kept = tile.scratch("kept", weights[0]).fill_(1.0)
    nonzero = tile.scratch("nonzero", weights[0])
    for weight, share in zip(weights, prepared, strict=True):
        if share:
            kept.mul_(torch.ne(weight, 0, out=nonzero))
    return kept


def _masked(
    weights: Sequence[Tensor], *, prepared: tuple[float, ...], masks: Masks = "equal", tile: Tile
) -> Sequence[Tensor]:
    if masks != "intersect":
        return weights
    kept = _kept(weights, prepared, tile)
    return [weight.mul_(kept) for weight in weights]


@merge_method(
    operates_on="weights",
    reference="https://arxiv.org/abs/2306.16788",
    prepare=_coefficients,
    gradient=Combination(("weight",), terms=_masked),
)
def sparse_soup(
    weights: Sequence[Tensor], *, prepared: tuple[float, ...], masks: Masks = "equal", tile: Tile
) -> Tensor:
    """Weighted average of models fine-tuned from one pruned parent: elements that are zero in all stay exactly zero.

    masks: "equal" rejects models with different zeros, "intersect" keeps elements that all of them keep, "union" those
    that any of them keeps. Statistics of batch normalization are averaged like weights: re-estimate them afterwards.
    """
    if masks != "intersect":
        return combine(weights, prepared)
    kept = _kept(weights, prepared, tile)
    return combine(weights, prepared).mul_(kept)
