"""The middle of a delta by magnitude: without outliers and without small elements. https://arxiv.org/abs/2312.06795."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from evomerge.merging.fused.masks import Cuts
from evomerge.merging.kernels.ranks import row_length
from evomerge.merging.kernels.row_cuts import RowMiddle, row_mask, row_middle
from evomerge.merging.kernels.sparsify import Cut, cut_mask, largest_deltas, restoring_factor, trim
from evomerge.merging.tiles import TensorSource, Tile

#: "official" counts per row, "mergekit" over the whole tensor.
Compat = Literal["official", "mergekit"]
#: "mergekit": restore each delta's L1 norm per tensor, except near-zero norms. "none": do nothing.
Rescale = Literal["none", "mergekit"]


@dataclass(frozen=True)
class _Rows:
    """The same middle of each row; None keeps everything."""

    middle: RowMiddle | None

    @property
    def everything(self) -> bool:
        return self.middle is None

    def keep(self, delta: Tensor, tile: Tile) -> Tensor:
        """Set the rest of the delta to zero, in place."""
        return delta if self.middle is None else self.middle.keep(delta, tile)

    def mask(self, source: TensorSource) -> Cuts:
        """Return it as a mask for compiled kernels."""
        return row_mask(source) if self.middle is None else self.middle.mask()


@dataclass(frozen=True)
class _Tensor:
    """The largest elements of a tensor without the outliers, which are the largest of these."""

    largest: Cut | None
    outliers: Cut | None

    @property
    def everything(self) -> bool:
        return self.largest is None and self.outliers == _NONE

    def keep(self, delta: Tensor, tile: Tile) -> Tensor:
        """Set the rest of the delta to zero, in place."""
        outliers = trim(tile.scratch("outliers", delta).copy_(delta), self.outliers, tile)
        return trim(delta, self.largest, tile).sub_(outliers)

    def mask(self, source: TensorSource) -> Cuts:
        """Return it as a mask for compiled kernels."""
        inner, outer = (cut_mask(cut, source) for cut in (self.largest, self.outliers))
        return Cuts(source.numel, inner.thresholds, inner.ends, (outer.thresholds, outer.ends))


Middle = _Rows | _Tensor
_NONE = Cut(float("inf"), 0)


def middle(
    source: TensorSource, density: Sequence[float], gamma: Sequence[float], compat: Compat
) -> tuple[Middle, ...]:
    """Return for every input (n_inputs) the `density` largest of the elements below the `gamma` largest.

    Both are fractions of all elements.
    """
    one = _of_rows if compat == "official" else _of_tensor
    return tuple(one(source, i, d, g) for i, (d, g) in enumerate(zip(density, gamma, strict=True)))


def middle_factors(source: TensorSource, middles: Sequence[Middle], rescale: Rescale) -> tuple[float, ...]:
    """Return the factor of each delta's middle (n_inputs), see `Rescale`."""
    if rescale == "none":
        return (1.0,) * len(middles)
    return tuple(1.0 if m.everything else restoring_factor(source, i, m.keep) for i, m in enumerate(middles))


def _of_rows(source: TensorSource, index: int, density: float, gamma: float) -> Middle:
    length = row_length(source)
    high = length - int(length * gamma)
    low = max(high - int(length * density), 0)
    return _Rows(None if (low, high) == (0, length) else row_middle(source, index, low, high))


def _of_tensor(source: TensorSource, index: int, density: float, gamma: float) -> Middle:
    n = source.numel
    wanted = int(density * n)
    outliers = min(int(gamma * n), n - wanted)

    kept = largest_deltas(source, index, wanted + outliers)
    return _Tensor(kept, largest_deltas(source, index, outliers) if outliers else _NONE)
