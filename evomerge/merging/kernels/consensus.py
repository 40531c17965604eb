"""Electing a sign per element and averaging agreeing values: the election of TIES, https://arxiv.org/abs/2306.01708."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict

import torch
from torch import Tensor

from evomerge.merging.fused.masks import Mask, Sparse, Vote
from evomerge.merging.tiles import Tile, dot


@dataclass(frozen=True)
class Rule:
    """The rules of an election.

    weighted_votes: whether votes are weighted; otherwise all count equally, even with weight zero. weighted_mean: a
    normalized sum is divided by the agreeing weights, not by their number. undecided: the sign if
    the votes sum to exactly zero, 1 or -1, or 0 for none.
    """

    weighted_votes: bool = True
    weighted_mean: bool = True
    undecided: int = 1


Compat = Literal["mergekit", "peft"]
RULES: Mapping[Compat, Rule] = {"mergekit": Rule(), "peft": Rule(weighted_votes=False, weighted_mean=False)}
#: "total": the sum decides. "frequency": the number of inputs with each sign decides.
Election = Literal["total", "frequency"]


class ElectionSlopes(TypedDict):
    """Derivatives by the weights (n_inputs) and by the scale."""

    weight: list[float]
    scale: float


_SIGN_BIT = -(2**31)
#: Smallest positive float32: divides an empty sum, which is zero, without changing any other.
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
    """Return the weighted sum, per element, of the deltas (n_inputs tiles, overwritten) with the elected sign.

    A negative weight inverts its delta and counts as positive: otherwise it could make the divisor
    vanish. normalize: divide according to the rule, instead of summing.
    """
    shares = [abs(weight) for weight in weights]
    votes = ballot(deltas, weights, tile, rule=rule, election=election)
    decided = tile.scratch("decided", votes).copy_(votes).sign_().abs_() if rule.undecided == 0 else None
    minus = _minus(votes, rule)
    total = tile.scratch("total", deltas[0]).zero_()
    divisor = tile.scratch("divisor", deltas[0]).zero_() if normalize else None
    for delta, share in zip(deltas, shares, strict=True):
        _flip(delta, minus).relu_()
        total.add_(_times(delta, share, tile))
        if divisor is not None:
            divisor.add_(delta.sign_(), alpha=share if rule.weighted_mean else 1.0)
    if divisor is not None:
        total.div_(divisor.clamp_min_(_SMALLEST))
    return _flip(total if decided is None else total.mul_(decided), minus)


def elected(
    masks: Sequence[Mask],
    factors: Sequence[float],
    weights: Sequence[float],
    *,
    normalize: bool,
    rule: Rule = RULES["mergekit"],
    election: Election = "total",
    scale: float,
) -> Sparse:
    """Return `scale` times what `elect` returns for masked deltas times their factors, as compiled kernels take it."""
    shares = tuple(abs(weight) for weight in weights)
    votes = shares if rule.weighted_votes else (1.0,) * len(shares)
    if election == "frequency":
        votes = tuple(1.0 if vote else 0.0 for vote in votes)
    divisors = shares if rule.weighted_mean else (1.0,) * len(shares)
    signed = tuple(-factor if weight < 0 else factor for factor, weight in zip(factors, weights, strict=True))
    vote = Vote(votes, shares, divisors if normalize else None, rule.undecided, election == "frequency")
    return Sparse(masks, signed, vote, scale)


def elect_slopes(
    deltas: Sequence[Tensor],
    weights: Sequence[float],
    gradient: Tensor,
    tile: Tile,
    *,
    normalize: bool,
    rule: Rule = RULES["mergekit"],
    election: Election = "total",
    scale: float = 1.0,
) -> ElectionSlopes:
    """Contract a gradient with the derivative of `scale` times what `elect` returns, at fixed signs.

    deltas: n_inputs tiles, overwritten. gradient: read-only. An element that only inputs without weight agree on has
    no derivative, since any weight would change a normalized sum at once.
    """
    votes = ballot(deltas, weights, tile, rule=rule, election=election)
    signed = tile.scratch("signed gradient", votes).copy_(gradient)
    if rule.undecided == 0:
        signed.mul_(tile.scratch("decided", votes).copy_(votes).sign_().abs_())
    minus = _minus(votes, rule)
    _flip(signed, minus)
    total = tile.scratch("total", votes).zero_()
    divisor = tile.scratch("divisor", votes).zero_()
    for delta, weight in zip(deltas, weights, strict=True):
        share = abs(weight)
        total.add_(_times(_flip(delta, minus).relu_(), share, tile))
        if normalize:
            agrees = torch.sign(delta, out=tile.scratch("agrees", delta))
            divisor.add_(agrees, alpha=share if rule.weighted_mean else 1.0)
    if normalize:
        signed.mul_(torch.gt(divisor, 0, out=tile.scratch("agrees", divisor)))
        signed.div_(divisor.clamp_min_(_SMALLEST))
        mean = total.div_(divisor)
    slopes = []
    for delta, weight in zip(deltas, weights, strict=True):
        slope = dot(signed, delta)
        if normalize and rule.weighted_mean:
            # The quotient's second term: a larger weight is also a larger divisor.
            slope -= dot(signed, delta.sign_().mul_(mean))
        slopes.append(scale * (-slope if weight < 0 else slope))
    value = dot(signed, total.mul_(divisor) if normalize else total)
    return {"weight": slopes, "scale": value}


def ballot(
    deltas: Sequence[Tensor], weights: Sequence[float], tile: Tile, *, rule: Rule, election: Election = "total"
) -> Tensor:
    """Return the sum of the votes per element, never -0; inverts deltas with negative weight."""
    votes = tile.scratch("votes", deltas[0]).zero_()
    for delta, weight in zip(deltas, weights, strict=True):
        share = abs(weight) if rule.weighted_votes else 1.0
        if weight < 0:
            delta.neg_()
        if election == "frequency":
            votes.add_(delta.sign(), alpha=1.0 if share else 0.0)
        else:
            votes.add_(_times(delta, share, tile))
    return votes


def _times(delta: Tensor, share: float, tile: Tile) -> Tensor:
    """Return the product in memory that the next one reuses; `alpha` of add rounds it or not, depending on the CPU."""
    return torch.mul(delta, share, out=tile.scratch("product", delta))


def _minus(votes: Tensor, rule: Rule) -> Tensor:
    """Return the sign bit, set where minus wins, as int32 in place of the votes."""
    if rule.undecided < 0:
        # -x + 0 is never -0 either: its sign bit is set exactly where plus wins.
        bits = votes.neg_().add_(0.0).view(torch.int32)
        return bits.bitwise_and_(_SIGN_BIT).bitwise_xor_(_SIGN_BIT)
    return votes.view(torch.int32).bitwise_and_(_SIGN_BIT)


def _flip(values: Tensor, minus: Tensor) -> Tensor:
    values.view(torch.int32).bitwise_xor_(minus)
    return values
