"""Elements in which the inputs' deltas differ most: the selection of SCE, https://arxiv.org/abs/2408.07990."""

from collections.abc import Sequence

import torch
from torch import Tensor

from evomerge.merging.kernels.remembered import remembered
from evomerge.merging.kernels.sparsify import Cut, largest_of, trim
from evomerge.merging.tiles import TensorSource, Tile, total

_SHARES_KEPT = 8


def selection(source: TensorSource, share: float) -> Cut | None:
    """Return the cut on the variance between inputs that keeps this fraction of the elements with non-zero variance.

    None, for a fraction of 1, keeps all elements.
    """
    if share == 1:
        return None
    if "varying" not in source.cache:
        counts = source.map(lambda tile: int(torch.count_nonzero(_variance_of(source, tile))))
        source.cache["varying"] = sum(counts)
    count = int(source.cache["varying"] * share)
    return largest_of(source, "variances", lambda tile: _variance_of(source, tile), count)


def mean_squares(source: TensorSource, share: float) -> list[float]:
    """Return the mean over all elements of each delta's square, zero where it is not selected (n_inputs)."""

    def squares(tile: Tile) -> list[float]:
        deltas = _deltas(source, tile)
        select(deltas, cut, tile)
        return [total(delta.square_()) for delta in deltas]

    def measure() -> list[float]:
        return [sum(column) / source.numel for column in zip(*source.map(squares), strict=True)]

    cut = selection(source, share)
    return remembered(source.cache, "selected squares", share, measure, keep=_SHARES_KEPT)


def select(deltas: Sequence[Tensor], cut: Cut | None, tile: Tile) -> None:
    """Set unselected elements to zero in all deltas (n_inputs tiles), in place."""
    if cut is not None:
        selected = trim(_variance(deltas, tile), cut, tile).sign_()
        for delta in deltas:
            delta.mul_(selected)


def _deltas(source: TensorSource, tile: Tile) -> list[Tensor]:
    base = source.base(tile)
    return [source.deltas(index, tile, base) for index in range(len(source.input_names))]


def _variance_of(source: TensorSource, tile: Tile) -> Tensor:
    return _variance(_deltas(source, tile), tile)


def _variance(deltas: Sequence[Tensor], tile: Tile) -> Tensor:
    """Return the variance over the inputs per element, in memory that the next call overwrites."""
    mean, variance, away = (tile.scratch(("variance", key), deltas[0]) for key in ("mean", "sum", "away"))
    # Relative to the first delta, so that the mean of equal deltas is exact.
    mean.zero_()
    for delta in deltas[1:]:
        mean.add_(torch.sub(delta, deltas[0], out=away))
    mean.div_(len(deltas)).add_(deltas[0])
    variance.zero_()
    for delta in deltas:
        variance.add_(torch.sub(delta, mean, out=away).square_())
    return variance.div_(len(deltas))
