"""The largest elements of each row of a delta, defined by two numbers per row; rows are those of `row_length`."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from evomerge.merging.fused.masks import Cuts
from evomerge.merging.kernels.lines import block, blocks
from evomerge.merging.kernels.ranks import row_length
from evomerge.merging.kernels.remembered import remembered
from evomerge.merging.tiles import BASE, TensorSource, Tile

_MAGNITUDE = 0x7FFFFFFF
#: Pairs of counts cached per tensor and input: a search returns to few densities, a random walk to none.
_PAIRS_KEPT = 8


@dataclass(frozen=True)
class RowCuts:
    """The elements of each row above `threshold`, and those equal to it at a position before `end`.

    Both (n_rows, 1), int32; a threshold is the bits of a magnitude, which are ordered like the magnitudes.
    """

    threshold: Tensor
    end: Tensor

    def beyond(self, bits: Tensor, places: Tensor, rows: slice, out: Tensor) -> Tensor:
        """Return negative values for elements outside. bits: magnitudes, (n_rows, n_places); places: (n_places,)."""
        torch.sub(self.end[rows] - 1, places, out=out).bitwise_right_shift_(31)
        return out.add_(bits).sub_(self.threshold[rows])

    def flat(self) -> tuple[Tensor, Tensor]:
        """Return thresholds and ends, (n_rows,), as compiled kernels take them."""
        return self.threshold.reshape(-1), self.end.reshape(-1).long()


@dataclass(frozen=True)
class RowMiddle:
    """The elements of each row in `inner` (None: all of them) but not in `outer` (None: no exception)."""

    length: int
    inner: RowCuts | None
    outer: RowCuts | None

    def keep(self, delta: Tensor, tile: Tile) -> Tensor:
        """Set the rest of the delta to zero, in place."""
        bits, kept, other = (tile.scratch(key, delta).view(torch.int32) for key in ("bits", "kept", "other"))
        torch.bitwise_and(delta.view(torch.int32), _MAGNITUDE, out=bits)
        for rows, places, part in _pieces(tile, self.length):
            shape = (rows.stop - rows.start, places.stop - places.start)
            columns = torch.arange(places.start, places.stop, dtype=torch.int32, device=delta.device)
            bits_of, kept_of, other_of = (memory[part].view(shape) for memory in (bits, kept, other))
            # A set sign bit keeps the element, and is then extended to all other bits.
            if self.outer is None:
                kept_of.fill_(-1)
            else:
                self.outer.beyond(bits_of, columns, rows, kept_of)
            if self.inner is not None:
                kept_of.bitwise_and_(self.inner.beyond(bits_of, columns, rows, other_of).bitwise_not_())
        delta.view(torch.int32).bitwise_and_(kept.bitwise_right_shift_(31))
        return delta

    def mask(self) -> Cuts:
        """Return it as a mask for compiled kernels."""
        outer = None if self.outer is None else self.outer.flat()
        if self.inner is not None:
            thresholds, ends = self.inner.flat()
        else:
            thresholds, ends = _everything(1 if outer is None else len(outer[0]), self.length)
        return Cuts(self.length, thresholds, ends, outer)


def row_mask(source: TensorSource) -> Cuts:
    """Return a mask of all elements with the rows of `row_middle`, for compiled kernels."""
    length = row_length(source)
    return Cuts(length, *_everything(source.numel // length, length))


def _everything(n_rows: int, length: int) -> tuple[Tensor, Tensor]:
    return torch.zeros(n_rows, dtype=torch.int32), torch.full((n_rows,), length)


def row_middle(source: TensorSource, index: int, low: int, high: int) -> RowMiddle:
    """Return the elements that rank in [low, high) in each row of input `index`'s delta, from 0 for the smallest
    magnitude.

    Among equals the lower index ranks higher. 0 <= low <= high <= length; for non-empty tensors.
    """
    cache, key = source.cache, ("row middles", index)
    return remembered(cache, key, (low, high), lambda: _find(source, index, low, high), keep=_PAIRS_KEPT)


def _find(source: TensorSource, index: int, low: int, high: int) -> RowMiddle:
    length = row_length(source)
    if low == high:
        nothing = torch.zeros(source.numel // length, 1, dtype=torch.int32, device=source.device)
        return RowMiddle(length, RowCuts(nothing + _MAGNITUDE, nothing), None)
    starts = sorted({start for start in (low, high) if 0 < start < length})
    found: dict[int, list[tuple[Tensor, Tensor]]] = {start: [] for start in starts}
    for first, last in blocks(source, length):
        delta = block(source, index, length, first, last).sub_(block(source, BASE, length, first, last))
        bits = delta.view(torch.int32).bitwise_and_(_MAGNITUDE)
        upper, skipped = bits, 0
        for start in starts:
            upper = _upper(upper, start - skipped)
            skipped = start
            found[start].append(_cut(bits, upper))
    cuts = {start: RowCuts(*(torch.cat(parts) for parts in zip(*pairs, strict=True))) for start, pairs in found.items()}
    return RowMiddle(length, cuts.get(low), cuts.get(high))


def _upper(bits: Tensor, start: int) -> Tensor:
    """Return each row's elements without the `start` smallest ones, the smallest of the rest first."""
    if bits.device.type == "cpu":
        return torch.from_numpy(np.partition(bits.numpy(), start, axis=1))[
            :, start:
        ]  # vectorized, unlike torch.kthvalue
    return bits.sort(dim=1).values[:, start:]


def _cut(bits: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """Return threshold and end, (n_rows, 1) each, of the elements to keep in each row; `upper` has their values."""
    threshold = upper[:, :1].clone()
    wanted = (upper == threshold).sum(dim=1)
    rows, length = bits.shape
    equal = (bits == threshold).view(-1)
    places = torch.from_numpy(np.flatnonzero(equal.numpy())) if equal.device.type == "cpu" else equal.nonzero().view(-1)
    begins = torch.arange(0, rows * length, length, device=bits.device)
    last = places[torch.searchsorted(places, begins) + wanted - 1]
    return threshold, (last - begins + 1).to(torch.int32).view(-1, 1)


def _pieces(tile: Tile, length: int) -> Iterator[tuple[slice, slice, slice]]:
    """Yield a tile as up to three rectangles: their rows, their positions in a row, and their part of the tile."""
    start = tile.start
    while start < tile.stop:
        row, place = divmod(start, length)
        n_rows = (tile.stop - start) // length if place == 0 else 0
        stop = start + n_rows * length if n_rows else min(start - place + length, tile.stop)
        places = slice(0, length) if n_rows else slice(place, place + stop - start)
        yield slice(row, row + max(n_rows, 1)), places, slice(start - tile.start, stop - tile.start)
        start = stop
