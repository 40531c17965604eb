"""TSV-M: task singular vectors (Gargiulo et al., 2025). https://arxiv.org/abs/2412.00081."""

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor

from evomerge.merging.kernels.remembered import remembered
from evomerge.merging.kernels.spectral import (
    PROJECTIONS,
    accumulate,
    compact,
    is_spectral,
    polar,
    spectrum,
    weighted_sum,
)
from evomerge.merging.method import Bounds, PerInput, Shared, merge_method
from evomerge.merging.tiles import TensorSource


def _parts(deltas: Sequence[Tensor], shape: torch.Size) -> list[tuple[Tensor, ...]]:
    """Return each input's contribution at weight 1: its leading triplets, with all vectors orthogonalized together."""
    # One triplet each if there are more inputs than ranks: none at all would drop the tensor's change.
    share = max(min(shape) // len(deltas), 1)
    found = [spectrum(deltas[index], share) for index in range(len(deltas))]
    left, right = polar(torch.cat([one.left for one in found], 1)), polar(torch.cat([one.right for one in found]))
    ranks = [len(one.values) for one in found]
    blocks = zip(torch.split(left, ranks, 1), found, torch.split(right, ranks), strict=True)
    return [compact(columns * one.values, rows) for columns, one, rows in blocks]


@merge_method(
    operates_on="deltas",
    reference="https://arxiv.org/abs/2412.00081",
    whole=True,
    linear_in=("weight", "scale"),
)
def tsv_m(
    deltas: Sequence[Tensor],
    *,
    weight: Annotated[PerInput, Bounds(1.0, 0.0, 3.0)],
    # The same direction as scaling all weights, hence not searched.
    scale: Annotated[Shared, Bounds(1.0, 1.0, 1.0)],
    exclude: str = PROJECTIONS,
    source: TensorSource,
) -> Tensor:
    """Each delta's leading singular triplets, an equal share of the rank each, with orthogonalized vectors.

    Linear in the weights, so a re-merge is a sum of parts. Matrices only, including embeddings: other tensors, and
    those whose names match a pattern of `exclude` (comma-separated), get the scaled mean of the weighted deltas. Keeps
    float32 parts of every matrix in a search: up to twice its size.
    """
    if not is_spectral(source, exclude):
        return weighted_sum(deltas, weight).mul_(scale / len(deltas))
    parts = remembered(source.cache, "tsv_m", None, lambda: _parts(deltas, source.shape))
    total = torch.zeros(source.shape, dtype=torch.float32, device=source.device)
    for part, value in zip(parts, weight, strict=True):
        accumulate(total, part, scale * value)
    return total
