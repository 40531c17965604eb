"""RAM+: RAM with amplified unique changes (Yuan et al., 2026). https://arxiv.org/abs/2601.13572."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated

import torch
from torch import Tensor

from evomerge.merging.kernels.combination import one_model
from evomerge.merging.kernels.remembered import remembered
from evomerge.merging.method import BASE, Bounds, Contraction, CopyOf, PerInput, Shared, merge_method
from evomerge.merging.methods._overlap import average_of_changes, changed, slopes_of_changes
from evomerge.merging.methods._weights import taking_part
from evomerge.merging.tiles import TensorSource, Tile, total

Weight = Annotated[PerInput, Bounds(1.0, 0.0, 1.0)]
Scale = Annotated[Shared, Bounds(1.0, 0.3, 2.0)]
Epsilon = Annotated[Shared, Bounds(1e-5, 1e-5, 1e-5)]


def _amplification(
    source: TensorSource,
    *,
    weight: Weight,
    scale: Scale,
    epsilon: Epsilon,
    r: Annotated[Shared, Bounds(0.1, 0.0, 1.0)],
    alpha: Annotated[Shared, Bounds(0.2, 0.0, 1.0)],
) -> CopyOf | tuple[float, ...]:
    """Return the amplification of every input's unique elements beyond 1 (n_inputs)."""
    part = taking_part(source, weight)
    if not part or scale == 0:
        return CopyOf(BASE)
    alone = one_model(weight) if scale == 1 and epsilon == 0 else None
    if alone:
        return alone
    counts = remembered(source.cache, "ram_plus", (part, epsilon), partial(_overlaps, source, part, epsilon), keep=4)
    return tuple(r * min(shared / unique, alpha) if unique else 0.0 for shared, unique in counts)


def _overlaps(source: TensorSource, part: tuple[int, ...], epsilon: float) -> list[tuple[float, float]]:
    """Return for each input how many of its changed elements are shared with others, and how many are unique."""
    n_inputs = len(source.input_names)

    def count(tile: Tile) -> list[tuple[float, float]]:
        base = source.base(tile)
        masks = [changed(source.deltas(index, tile, base), epsilon, tile).clone() for index in part]
        contributors = torch.stack(masks).sum(0)
        alone = torch.eq(contributors, 1, out=contributors)
        found = [(0.0, 0.0)] * n_inputs
        for index, mask in zip(part, masks, strict=True):
            everything, unique = total(mask), total(mask.mul_(alone))
            found[index] = (everything - unique, unique)
        return found

    tiles = source.map(count)
    return [(sum(t[i][0] for t in tiles), sum(t[i][1] for t in tiles)) for i in range(n_inputs)]


def _amplified(
    deltas: Sequence[Tensor], weight: Sequence[float], prepared: Sequence[float], epsilon: float, tile: Tile
) -> Tensor:
    """Return the factor of each element, more than 1 where a single model changes it."""
    contributors = tile.scratch("contributors", deltas[0]).zero_()
    more = tile.scratch("more", deltas[0]).zero_()
    for delta, value, amplified in zip(deltas, weight, prepared, strict=True):
        if value > 0:
            mask = changed(delta, epsilon, tile)
            contributors.add_(mask)
            more.add_(mask, alpha=amplified)
    return more.mul_(torch.eq(contributors, 1, out=contributors)).add_(1.0)


def _slopes(
    deltas: Sequence[Tensor],
    gradient: Tensor,
    *,
    weight: Weight,
    scale: Scale,
    epsilon: Epsilon,
    prepared: tuple[float, ...],
    tile: Tile,
) -> Mapping[str, float | list[float]]:
    by_average = _amplified(deltas, weight, prepared, epsilon, tile).mul_(gradient)
    by_weight, by_scale = slopes_of_changes(deltas, weight, by_average, epsilon, tile)
    return {"weight": [scale * slope for slope in by_weight], "scale": by_scale}


@merge_method(
    operates_on="deltas",
    reference="https://arxiv.org/abs/2601.13572",
    prepare=_amplification,
    linear_in=("scale",),
    gradient=Contraction(("weight", "scale"), _slopes),
)
def ram_plus(
    deltas: Sequence[Tensor],
    *,
    weight: Weight,
    scale: Scale,
    epsilon: Epsilon,
    prepared: tuple[float, ...],
    tile: Tile,
) -> Tensor:
    """RAM with unique changes multiplied by 1 + r * min(rho, alpha).

    rho: ratio of the model's shared to unique changes in the tensor. Per tensor as in mergekit's
    `ramplus_tl`. The published method has neither weights nor scale: they are 1.
    """
    merged = average_of_changes(deltas, weight, epsilon, tile)
    return merged.mul_(_amplified(deltas, weight, prepared, epsilon, tile)).mul_(scale)
