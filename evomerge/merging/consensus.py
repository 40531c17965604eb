"""Agreeing on a sign per element and averaging those who agree: the election of TIES, https://arxiv.org/abs/2306.01708."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from evomerge.merging.tiles import Tile

#: "mergekit": the weighted deltas vote, and the sum is divided by the weights of those who agree.
#: "peft": the deltas vote unweighted, also those of weight zero, and the sum is divided by their number.
Compat = Literal["mergekit", "peft"]
#: "total": the sum decides. "frequency": the number of inputs on each side decides.
Election = Literal["total", "frequency"]

_SIGN_BIT = -(2**31)
#: Smallest positive float32: divides a sum over nobody, which is zero, without changing any other.
_SMALLEST = 2.0**-149


def elect(
    deltas: Sequence[Tensor],
    weights: Sequence[float],
    tile: Tile,
    *,
    normalize: bool,
    compat: Compat = "mergekit",
    election: Election = "total",
) -> Tensor:
    """Weighted sum, at each element, of the deltas (n_inputs tiles, overwritten) whose sign won the election.

    A sum of exactly zero elects plus. A negative weight turns its delta around and counts as positive: as it
    stands it would make the divisor vanish. normalize: divide as `compat` says, instead of summing up.
    """
    for delta, weight in zip(deltas, weights, strict=True):
        if weight < 0:
            delta.neg_()
    shares = [abs(weight) for weight in weights]
    # Starting from +0, no sum is ever -0, so the sign bit is set exactly where minus wins.
    minus = _votes(deltas, shares, tile, compat, election).view(torch.int32).bitwise_and_(_SIGN_BIT)
    total = tile.scratch("total", deltas[0]).zero_()
    divisor = tile.scratch("divisor", deltas[0]).zero_() if normalize else None
    for delta, share in zip(deltas, shares, strict=True):
        _flip(delta, minus).relu_()
        total.add_(delta, alpha=share)
        if divisor is not None:
            divisor.add_(delta.sign_(), alpha=share if compat == "mergekit" else 1.0)
    if divisor is not None:
        total.div_(divisor.clamp_min_(_SMALLEST))
    return _flip(total, minus)


def _votes(deltas: Sequence[Tensor], shares: Sequence[float], tile: Tile, compat: Compat, election: Election) -> Tensor:
    votes = tile.scratch("votes", deltas[0]).zero_()
    for delta, share in zip(deltas, shares, strict=True):
        if election == "frequency":
            votes.add_(delta.sign(), alpha=1.0 if compat == "peft" or share else 0.0)
        else:
            votes.add_(delta, alpha=share if compat == "mergekit" else 1.0)
    return votes


def _flip(values: Tensor, minus: Tensor) -> Tensor:
    values.view(torch.int32).bitwise_xor_(minus)
    return values
