"""Agreeing on a sign per element and averaging those who agree: the election of TIES, https://arxiv.org/abs/2306.01708."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from evomerge.merging.tiles import Tile


@dataclass(frozen=True)
class Rule:
    """How an election goes.

    weighted_votes: deltas vote by their weights; else all alike, also those of weight zero. weighted_mean: a
    normalized sum is divided by the weights of those who agree, not by their number. undecided: the sign where
    the votes add up to exactly zero, 1 or -1, or 0 for nothing at all.
    """

    weighted_votes: bool = True
    weighted_mean: bool = True
    undecided: int = 1


Compat = Literal["mergekit", "peft"]
RULES: Mapping[Compat, Rule] = {"mergekit": Rule(), "peft": Rule(weighted_votes=False, weighted_mean=False)}
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
    rule: Rule = RULES["mergekit"],
    election: Election = "total",
) -> Tensor:
    """Weighted sum, at each element, of the deltas (n_inputs tiles, overwritten) whose sign won the election.

    A negative weight turns its delta around and counts as positive: as it stands it would make the divisor
    vanish. normalize: divide as the rule says, instead of summing up.
    """
    shares = [abs(weight) for weight in weights]
    votes = ballot(deltas, weights, tile, rule=rule, election=election)
    decided = tile.scratch("decided", votes).copy_(votes).sign_().abs_() if rule.undecided == 0 else None
    minus = _minus(votes, rule)
    total = tile.scratch("total", deltas[0]).zero_()
    divisor = tile.scratch("divisor", deltas[0]).zero_() if normalize else None
    for delta, share in zip(deltas, shares, strict=True):
        _flip(delta, minus).relu_()
        total.add_(delta, alpha=share)
        if divisor is not None:
            divisor.add_(delta.sign_(), alpha=share if rule.weighted_mean else 1.0)
    if divisor is not None:
        total.div_(divisor.clamp_min_(_SMALLEST))
    return _flip(total if decided is None else total.mul_(decided), minus)


def ballot(
    deltas: Sequence[Tensor], weights: Sequence[float], tile: Tile, *, rule: Rule, election: Election = "total"
) -> Tensor:
    """Sum of the votes at each element, never -0; turns deltas of negative weight around."""
    votes = tile.scratch("votes", deltas[0]).zero_()
    for delta, weight in zip(deltas, weights, strict=True):
        share = abs(weight) if rule.weighted_votes else 1.0
        if weight < 0:
            delta.neg_()
        if election == "frequency":
            votes.add_(delta.sign(), alpha=1.0 if share else 0.0)
        else:
            votes.add_(delta, alpha=share)
    return votes


def _minus(votes: Tensor, rule: Rule) -> Tensor:
    """The sign bit set where minus wins, int32, in place of the votes."""
    if rule.undecided < 0:
        # Nor is -x + 0 ever -0: its sign bit is set exactly where plus wins.
        bits = votes.neg_().add_(0.0).view(torch.int32)
        return bits.bitwise_and_(_SIGN_BIT).bitwise_xor_(_SIGN_BIT)
    return votes.view(torch.int32).bitwise_and_(_SIGN_BIT)


def _flip(values: Tensor, minus: Tensor) -> Tensor:
    values.view(torch.int32).bitwise_xor_(minus)
    return values
