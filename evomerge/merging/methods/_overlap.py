"""Shared parts of the two Reinforced Agent Merging methods: which models change an element, https://arxiv.org/abs/2601.13572."""

from collections.abc import Sequence

import torch
from torch import Tensor

from evomerge.merging.tiles import Tile, dot

#: Smallest positive float32: divides an empty sum, which is zero, without changing any other.
_SMALLEST = 2.0**-149


def changed(delta: Tensor, epsilon: float, tile: Tile) -> Tensor:
    """Return 1 where the delta's magnitude is above epsilon, else 0, in memory that the next call reuses."""
    mask = tile.scratch("changed", delta)
    return torch.gt(torch.abs(delta, out=mask), epsilon, out=mask)


def slopes_of_changes(
    deltas: Sequence[Tensor], weights: Sequence[float], gradient: Tensor, epsilon: float, tile: Tile
) -> tuple[list[float], float]:
    """Contract a gradient with the derivative of `average_of_changes` by the weights, and with the average itself.

    An element that only models without weight change has no derivative. gradient: overwritten.
    """
    average = average_of_changes(deltas, weights, epsilon, tile)
    divisor = tile.scratch("weights of changes", average)
    gradient.mul_(torch.gt(divisor, _SMALLEST, out=tile.scratch("changed", average))).div_(
        divisor.clamp_min_(_SMALLEST)
    )
    slopes = []
    for delta in deltas:
        mask = changed(delta, epsilon, tile)
        slopes.append(dot(gradient, delta.sub_(average).mul_(mask)))
    return slopes, dot(gradient, average.mul_(divisor))


def average_of_changes(deltas: Sequence[Tensor], weights: Sequence[float], epsilon: float, tile: Tile) -> Tensor:
    """Return, per element, the weighted average of the deltas (n_inputs tiles) that change it; zero if none does."""
    total = tile.scratch("sum of changes", deltas[0]).zero_()
    divisor = tile.scratch("weights of changes", deltas[0]).zero_()
    for delta, weight in zip(deltas, weights, strict=True):
        mask = changed(delta, epsilon, tile)
        divisor.add_(mask, alpha=weight)
        total.add_(mask.mul_(delta).mul_(weight))
    return total.div_(divisor.clamp_min_(_SMALLEST))
