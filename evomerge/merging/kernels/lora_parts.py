"""Common steps of merge methods on LoRA factors, which combine one factor of all adapters, then the other.

PEFT's `add_weighted_adapter` works this way: https://huggingface.co/docs/peft/developer_guides/model_merging. With its
weights w and the adapters' scales s, A and B are each combined with sqrt(|w s|), A also with the sign of w s;
the product of the two merged factors is the merged change, which includes products of one adapter's A with another's B.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from evomerge.merging.factors import Factors
from evomerge.merging.kernels.consensus import Election
from evomerge.merging.kernels.sparsify import drop_at_random
from evomerge.merging.method import MethodError, NoGradient
from evomerge.merging.tiles import TILE, TensorSource, Tile

#: Gradient rule of the methods that merge factors: none.
NO_GRADIENT = NoGradient("has no gradient: factors are merged with roots of the weights, infinitely steep at 0")


@dataclass(frozen=True)
class Part:
    """One factor of the adapters that have it, or whole changes: float32, one shape, may be overwritten.

    inputs: indices of the models that they come from. tile: keys of the part's randomness.
    """

    values: Sequence[Tensor]
    weights: Sequence[float]
    inputs: Sequence[int]
    tile: Tile


Combine = Callable[[Part], Tensor]


def pairs(source: TensorSource, method: str) -> list[tuple[int, Factors]]:
    """Return input and factors of the inputs that change a tensor by factors; none if any change has no factors.

    Raises MethodError for adapters of different ranks.
    """
    found = [(index, source.factors(index)) for index in range(len(source.input_names))]
    known = [(index, factors) for index, factors in found if factors is not None]
    used = [(index, factors) for index, factors in known if factors.rank]
    if len(known) < len(found) or not used:
        return []
    ranks = {source.input_names[index]: factors.rank for index, factors in used}
    if len(dict.fromkeys(ranks.values())) > 1:
        listed = ", ".join(f"{name} {rank}" for name, rank in ranks.items())
        raise MethodError(
            f"{method} merges adapters of one rank; for {source.tensor} they are {listed}. "
            "task_arithmetic merges any ranks, exactly."
        )
    return used


def merge_parts(
    deltas: Sequence[Tensor], weight: Sequence[float], source: TensorSource, tile: Tile, method: str, combine: Combine
) -> Tensor:
    """Return the merged change: the product of combined factors, or of combined whole changes without factors."""
    used = pairs(source, method)
    if not used:
        return combine(Part(list(deltas), weight, range(len(weight)), tile))
    inputs = [index for index, _ in used]
    products = [weight[index] * factors.scale for index, factors in used]
    roots = [math.sqrt(abs(product)) for product in products]
    signed = [math.copysign(root, product) for root, product in zip(roots, products, strict=True)]
    right = [factors.right.to(torch.float32, copy=True) for _, factors in used]
    left = [factors.left.to(torch.float32, copy=True) for _, factors in used]
    merged = replace(
        used[0][1],
        right=combine(Part(right, signed, inputs, replace(tile, tensor=f"{tile.tensor}.lora_A"))),
        left=combine(Part(left, roots, inputs, replace(tile, tensor=f"{tile.tensor}.lora_B"))),
        scale=1.0,
    )
    return merged.delta()


def weighted(part: Part) -> Tensor:
    """Return the weighted sum."""
    total = part.values[0].mul_(part.weights[0])
    for value, weight in zip(part.values[1:], part.weights[1:], strict=True):
        total.add_(value.mul_(weight))
    return total


def elected(part: Part, election: Election) -> Tensor:
    """Return the weighted mean, per element, of the values with the majority's sign, as in PEFT's TIES.

    The values themselves vote, whatever their weights; an empty sum of zero elects plus.
    """
    votes = torch.zeros_like(part.values[0])
    for value in part.values:
        votes.add_(value if election == "total" else value.sign())
    wanted = torch.where(votes >= 0, 1.0, -1.0)
    total, count = torch.zeros_like(votes), torch.zeros_like(votes)
    for value, weight in zip(part.values, part.weights, strict=True):
        agrees = value.sign().eq_(wanted)
        total.add_(value.mul_(agrees).mul_(weight))
        count.add_(agrees)
    return total.div_(count.clamp_min_(1.0))


def keep_largest(values: Tensor, density: float) -> Tensor:
    """Keep the int(density * numel) largest magnitudes, in place; among equal ones the lowest index."""
    count = int(density * values.numel())
    if count >= values.numel():
        return values
    if count == 0:
        return values.zero_()
    flat = values.view(-1)
    sizes = flat.abs()
    threshold = sizes.kthvalue(len(flat) - count + 1).values
    kept = sizes > threshold
    ties = (sizes == threshold).nonzero().flatten()
    kept[ties[: count - int(kept.sum())]] = True
    return values.mul_(kept.view_as(values))


def thinned(part: Part, density: Sequence[float]) -> Part:
    """Drop each element with probability 1 - density and divide the others by it, in place; density per input."""
    for value, index in zip(part.values, part.inputs, strict=True):
        share = density[index]
        flat = value.view(-1)
        for start in range(0, len(flat), TILE):
            piece = flat[start : start + TILE]
            drop_at_random(piece, replace(part.tile, start=start, stop=start + len(piece)), index, share)
        if share > 0:
            value.div_(share)
    return part
