"""Dropping elements of a delta at random, depending on their magnitude's rank in their row.

A row belongs to one output of a layer: a matrix row, the whole of a vector, and for a tensor with
more dimensions everything selected by its first index.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from evomerge.merging.fused.masks import ByRank, Mask
from evomerge.merging.kernels.lines import block, blocks
from evomerge.merging.kernels.sparsify import Rescale, at_random, drop_at_random, drop_unevenly, keys, restoring_factor
from evomerge.merging.method import BASE, MethodError
from evomerge.merging.tiles import TensorSource, Tile

#: Treatment of an epsilon that gives probabilities outside (0, 1): clipped, or rejected.
DellaCompat = Literal["official", "mergekit"]

_MAGNITUDE = 0x7FFFFFFF
#: Longest row whose ranks fit into 16 bits; they are stored as signed numbers.
_SHORT_ROW = 2**16
_OFFSET = 2**15
#: Smallest positive probability; divides only dropped elements.
_NEVER = 2.0**-31


@dataclass(frozen=True)
class RowRanks:
    """Rank of each element in its row, from 0 for the smallest magnitude; among equals the lower index ranks higher.

    Two bytes per element in rows of up to 65536, else four.
    """

    stored: Tensor
    length: int

    def of(self, tile: Tile, like: Tensor) -> Tensor:
        """Return the tile's ranks: int32, may be overwritten, valid until the next call."""
        ranks = tile.scratch("ranks", like).view(torch.int32).copy_(self.stored[tile.start : tile.stop])
        return ranks.add_(_OFFSET) if self.stored.dtype == torch.int16 else ranks


def row_length(source: TensorSource) -> int:
    """Return the number of elements of a row of a non-empty tensor."""
    return source.numel // source.shape[0] if len(source.shape) > 1 else source.numel


def row_ranks(source: TensorSource, index: int) -> RowRanks:
    """Return the ranks of input `index`'s delta, sorted once and cached with the non-empty tensor."""
    key = ("row ranks", index)
    if key not in source.cache:
        length = row_length(source)
        narrow = length <= _SHORT_ROW
        dtype = torch.int16 if narrow else torch.int32
        stored = torch.empty(source.numel // length, length, dtype=dtype, device=source.device)
        places = torch.arange(length, dtype=torch.int64, device=source.device)
        values = places.sub(_OFFSET if narrow else 0).to(dtype)
        for start, stop in blocks(source, length):
            delta = block(source, index, length, start, stop).sub_(block(source, BASE, length, start, stop))
            stored[start:stop].scatter_(1, _ascending(delta, places), values.expand(stop - start, length))
        source.cache[key] = RowRanks(stored.view(-1), length)
    ranks: RowRanks = source.cache[key]
    return ranks


def _ascending(delta: Tensor, places: Tensor) -> Tensor:
    """Return indices (n_rows, length) that sort each row by magnitude; of equals the last comes first."""
    # One integer for magnitude and index: no two are equal, so that any sorting algorithm gives the same order.
    keys = delta.view(torch.int32).bitwise_and_(_MAGNITUDE).to(torch.int64)
    keys = keys.bitwise_left_shift_(32).add_(places.flip(0))
    if keys.device.type == "cpu":
        keys.numpy().sort(axis=1)  # three times as fast as torch.sort
    else:
        keys = keys.sort(dim=1).values
    return keys.bitwise_and_(_MAGNITUDE).sub_(len(places) - 1).neg_()


@dataclass(frozen=True)
class Magprune:
    """Keep probabilities of one input: `density` on average over a row, lower by `epsilon` for its smallest element
    and higher for its largest, linear in the rank in between.
    """

    density: float
    epsilon: float
    ranks: RowRanks | None

    def drop(self, delta: Tensor, tile: Tile, index: int, *, rescale: bool) -> Tensor:
        """Set elements of input `index`'s delta to zero, in place. rescale: divide the others by their probability."""
        if self.ranks is None:
            thinned = drop_at_random(delta, tile, index, self.density)
            return thinned.div_(self.density) if rescale and self.density else thinned
        step = 2 * self.epsilon / (self.ranks.length - 1)
        probability = tile.scratch("probability", delta).copy_(self.ranks.of(tile, delta))
        probability.mul_(step).add_(self.density - self.epsilon)
        drop_unevenly(delta, tile, index, probability)
        return delta.div_(probability.clamp_min_(_NEVER)) if rescale else delta

    def mask(self, source: TensorSource, index: int, *, rescale: bool) -> Mask:
        """Return it as a mask for compiled kernels."""
        if self.ranks is None:
            return at_random(source, index, self.density, self.density if rescale and self.density else None)
        return ByRank(
            ranks=self.ranks.stored,
            offset=_OFFSET if self.ranks.stored.dtype == torch.int16 else 0,
            step=2 * self.epsilon / (self.ranks.length - 1),
            lowest=self.density - self.epsilon,
            keys=keys(source.seed, source.tensor, source.input_names[index]),
            smallest=_NEVER if rescale else None,
        )


def magprune(
    source: TensorSource, density: Sequence[float], epsilon: Sequence[float], compat: DellaCompat
) -> tuple[Magprune, ...]:
    """Return for every input (n_inputs) its keep probabilities, all within [0, 1].

    Raises MethodError for an epsilon that is negative or, for mergekit, too large.
    """
    found = []
    for index, (share, width) in enumerate(zip(density, epsilon, strict=True)):
        room = min(share, 1 - share)
        if width < 0 or (compat == "mergekit" and 0 < share < 1 and width >= room):
            raise MethodError(
                f"Keep probabilities of density {share} plus and minus epsilon {width} must stay between 0 and 1: "
                f"use an epsilon of at least 0 and less than {room:.6g}."
            )
        narrowed = min(width, room)
        needed = narrowed > 0 and row_length(source) > 1
        found.append(Magprune(share, narrowed, row_ranks(source, index) if needed else None))
    return tuple(found)


def magprune_factors(source: TensorSource, prunes: Sequence[Magprune], rescale: Rescale) -> tuple[float, ...]:
    """Return the overall factor of each sparsified delta (n_inputs): 1 except for "mergekit", see `Rescale`."""
    if rescale != "mergekit":
        return (1.0,) * len(prunes)
    return tuple(_restoring(source, index, prune) for index, prune in enumerate(prunes))


def _restoring(source: TensorSource, index: int, prune: Magprune) -> float:
    if prune.density in (0.0, 1.0):
        return 1.0
    return restoring_factor(source, index, lambda delta, tile: prune.drop(delta, tile, index, rescale=False))
