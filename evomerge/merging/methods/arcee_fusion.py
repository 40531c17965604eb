"""Arcee Fusion (Arcee AI, 2024): adopt the other model's important changes. https://github.com/arcee-ai/mergekit/blob/main/docs/merge_methods.md."""

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor

from evomerge.merging.kernels.thresholds import Ranking
from evomerge.merging.method import BASE, Bounds, CopyOf, NoGradient, Shared, merge_method
from evomerge.merging.tiles import TILE, TensorSource, Tile

_SMOOTHING = 1e-8
#: Threshold, divergence of every row, elements of a row.
Prepared = tuple[float, Tensor, int]


def _threshold(source: TensorSource, *, multiplier: Annotated[Shared, Bounds(1.5, 0.0, 3.0)]) -> CopyOf | Prepared:
    if source.identical:
        return CopyOf(BASE)
    length = source.shape[-1] if source.shape else 1
    if "arcee_fusion" not in source.cache:
        source.cache["arcee_fusion"] = _divergence(source, length)
    divergence: Tensor = source.cache["arcee_fusion"]

    def importances(source: TensorSource, tile: Tile) -> list[Tensor]:
        return [_importance(source.deltas(0, tile), divergence, length, tile)]

    ranking = Ranking([source], "importance", importances)
    name, last = source.input_names[0], source.numel - 1
    first, median, third = ranking.at([(name, int(share * last)) for share in (0.25, 0.5, 0.75)])
    return median.value + multiplier * (third.value - first.value), divergence, length


def _divergence(source: TensorSource, length: int) -> Tensor:
    """Return the Kullback-Leibler divergence from the softmax of the base's row to that of the model's row (n_rows)."""
    base, model = (source.whole(index).reshape(-1, length) for index in (BASE, 0))
    step = max(TILE // length, 1)
    parts = []
    for p, q in zip(torch.split(model, step), torch.split(base, step), strict=True):
        # In float64: in float32 the differences due to fine-tuning are as small as rounding errors.
        p, q = (torch.softmax(rows.double(), -1).add_(_SMOOTHING) for rows in (p, q))
        parts.append((p / q).log_().mul_(p).sum(-1).clamp_min_(0).float())
    return torch.cat(parts)


def _importance(delta: Tensor, divergence: Tensor, length: int, tile: Tile) -> Tensor:
    rows = torch.arange(tile.start, tile.stop, device=delta.device).div_(length, rounding_mode="floor")
    return delta.abs_().mul_(divergence[rows])


@merge_method(
    operates_on="weights",
    reference="https://github.com/arcee-ai/mergekit/blob/main/docs/merge_methods.md",
    gradient=NoGradient("has no gradient: its parameter only moves a threshold"),
    prepare=_threshold,
    max_inputs=1,
)
def arcee_fusion(weights: Sequence[Tensor], *, base: Tensor, prepared: Prepared, tile: Tile) -> Tensor:
    """The other model's element where its importance reaches a threshold, else the base's.

    Importance: |model - base| times the divergence between their rows, interpreted as logits. Threshold: median +
    multiplier * interquartile range of the tensor. mergekit estimates the quartiles of tensors with more than a million
    elements from a random sample, and divergences in float32; here both are exact.
    """
    threshold, divergence, length = prepared
    model = weights[0]
    delta = torch.sub(model, base, out=tile.scratch("delta", base))
    importance = _importance(delta, divergence, length, tile)
    # Sign bits, all ones where the importance is below: they select the base's bits.
    below = importance.sub_(threshold).view(torch.int32).bitwise_right_shift_(31)
    ours, theirs = base.view(torch.int32), model.view(torch.int32)
    theirs.bitwise_xor_(below.bitwise_and_(torch.bitwise_xor(ours, theirs)))
    return model
