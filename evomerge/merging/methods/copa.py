"""CoPA-Merging, also RobustMerge: pruned factors with complementary scales (Zeng et al., 2025). https://arxiv.org/abs/2502.17159."""

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor

from evomerge.merging.kernels.combination import combine, normalized, one_model
from evomerge.merging.kernels.lora_parts import pairs
from evomerge.merging.method import BASE, SHARE, Bounds, CopyOf, NoGradient, PerInput, Shared, merge_method
from evomerge.merging.tiles import TensorSource

Weight = Annotated[PerInput, Bounds(2.0, 0.0, 3.0)]


def _pruned(values: Tensor, density: float) -> Tensor:
    """Keep everything not smaller than the int(numel * (1 - density))-th smallest magnitude."""
    place = int(values.numel() * (1 - density))
    if place < 1:
        return values
    sizes = values.abs()
    return values * (sizes >= sizes.flatten().kthvalue(place).values)


def _scales(whole: Tensor, pruned: Tensor, share: float) -> Tensor:
    """Return each row's ratio of A before and after pruning, clamped from below by the smallest of the top `share`."""
    before, after = whole.abs().sum(1), pruned.abs().sum(1)
    # The published code divides by zero where nothing of a row is left and there is nothing to scale.
    scales = torch.where(after > 0, before / after.clamp_min(torch.finfo().tiny), torch.ones_like(before))
    rank = len(scales)
    return scales.clamp_min(float(scales.sort().values[min(int(rank * (1 - share)), rank - 1)]))


def _sole(source: TensorSource, *, weight: Weight) -> CopyOf | None:
    if not any(weight):
        return CopyOf(BASE)
    return None if pairs(source, "copa") else one_model(normalized(weight))


@merge_method(
    operates_on="deltas",
    reference="https://arxiv.org/abs/2502.17159",
    gradient=NoGradient("has no gradient: it merges the factors of adapters, not their changes"),
    prepare=_sole,
    whole=True,
)
def copa(
    deltas: Sequence[Tensor],
    *,
    weight: Weight,
    density: Annotated[PerInput, Bounds(0.2, 0.05, 1.0, allowed=SHARE)],
    clamp: Annotated[Shared, Bounds(0.2, 0.0, 1.0, allowed=SHARE)],
    source: TensorSource,
) -> Tensor:
    """A: weighted sum of pruned A. B: mean of pruned B, weighted by each adapter's pruning loss in A.

    density: fraction of A and B that is kept. clamp: fraction of the largest such scales whose smallest value is the
    lower bound of all. The published weight, 2, applies to both factors. Changes without factors: their weighted mean.
    """
    used = pairs(source, "copa")
    if not used:
        return combine(list(deltas), normalized(weight))
    first = used[0][1]
    right, left = torch.zeros_like(first.right), torch.zeros_like(first.left)
    total = torch.zeros(first.rank, device=right.device)
    for index, factors in used:
        pruned = _pruned(factors.right.float(), density[index])
        scales = _scales(factors.right.float(), pruned, clamp)
        right = right + weight[index] * pruned
        columns = _pruned(factors.left.float(), density[index]) * scales
        left = left + weight[index] * factors.scale / first.scale * columns
        total = total + scales
    product = left / total @ right * first.scale
    return product.T if first.transposed else product
