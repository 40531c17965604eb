"""Dropping elements of a delta: at random by a counter-based generator, or the smallest by an exact count.

Masks and cuts are applied by integer arithmetic on the float bits: torch's boolean operations cost ten times
as much per element, and this gives the same bits on every device, in every tile and on every thread.
"""

import hashlib
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evomerge.merging.fused.magnitudes import (
    TRAILING_BITS,
    Counted,
    Members,
    count_magnitudes,
    list_magnitudes,
    place_of_magnitude,
)
from evomerge.merging.fused.masks import AtRandom, Cuts
from evomerge.merging.tiles import BASE, TensorSource, Tile, total

#: "paper": divide by the density, which preserves the expected value.
#: "mergekit": restore each delta's L1 norm per tensor, except near-zero norms. "none": do nothing.
Rescale = Literal["paper", "mergekit", "none"]
#: Returns a tile of values, float32, in memory that may be overwritten.
Read = Callable[[Tile], Tensor]
#: Leading bits of magnitudes, ascending, and how many values have them.
Buckets = tuple[NDArray[np.uint16], NDArray[np.int64]]

#: Multipliers of a 32-bit mixing function found by search, https://github.com/skeeto/hash-prospector,
#: as signed integers.
_MULTIPLIERS = (0x21F0AAAD, 0xD35A2D97 - 2**32)
#: 2**32 over the golden ratio. Stepping by it instead of 1 removes correlations of up to 2 % between elements
#: some thousands apart, which remain after two rounds of mixing.
_STEP = 0x9E3779B9
_MAGNITUDE = 0x7FFFFFFF
#: Cuts cached per tensor and input: a search returns to few densities, a random walk to none.
_CUTS_KEPT = 8


def drop_at_random(delta: Tensor, tile: Tile, index: int, density: float) -> Tensor:
    """Set elements of input `index`'s delta to zero, in place; each is kept with probability `density`.

    An element is kept if its number u in [0, 1) is below the density, so the kept sets are nested. u depends only
    on the seed, the names of tensor and input, and the element's index (modulo 2**32).
    """
    kept = _uniform(delta, tile, index).sub_(_limit(density)).bitwise_right_shift_(31)
    delta.view(torch.int32).bitwise_and_(kept)
    return delta


def at_random(source: TensorSource, index: int, density: float, divisor: float | None = None) -> AtRandom:
    """Return the mask of `drop_at_random` for compiled kernels. divisor: of the kept elements."""
    return AtRandom(keys(source.seed, source.tensor, source.input_names[index]), _limit(density), divisor)


def drop_unevenly(delta: Tensor, tile: Tile, index: int, probability: Tensor) -> Tensor:
    """Drop elements with an individual keep probability each, float32 of the tile's size, read-only."""
    limits = tile.scratch("limits", delta).view(torch.int32)
    limits.copy_(torch.mul(probability, 2.0**31, out=tile.scratch("scaled", delta)).sub_(2.0**30).clamp_max_(2.0**30))
    kept = _uniform(delta, tile, index).sub_(limits).bitwise_right_shift_(31)
    delta.view(torch.int32).bitwise_and_(kept)
    return delta


def _limit(density: float) -> int:
    return round(density * 2**31) - 2**30


def _uniform(delta: Tensor, tile: Tile, index: int) -> Tensor:
    """Return u * 2**31 - 2**30 for each element, int32."""
    offset, shift = keys(tile.seed, tile.tensor, tile.input_names[index])
    bits, high = (tile.scratch(key, delta).view(torch.int32) for key in ("bits", "high"))
    torch.add(_counter(len(delta), str(delta.device)), _signed(tile.start * _STEP + offset), out=bits)
    torch.bitwise_right_shift(bits, 16, out=high).bitwise_and_(0xFFFF)
    bits.bitwise_xor_(high).mul_(_MULTIPLIERS[0])
    torch.bitwise_right_shift(bits, 15, out=high).bitwise_and_(0x1FFFF)
    bits.bitwise_xor_(high).add_(shift).mul_(_MULTIPLIERS[1])
    return bits.bitwise_right_shift_(1)


def rescale_factors(source: TensorSource, density: Sequence[float], rescale: Rescale) -> tuple[float, ...]:
    """Return the factor of each randomly sparsified delta (n_inputs), see `Rescale`."""
    return tuple(_rescale_factor(source, index, value, rescale) for index, value in enumerate(density))


def _rescale_factor(source: TensorSource, index: int, density: float, rescale: Rescale) -> float:
    if rescale == "none" or density in (0.0, 1.0):
        return 1.0
    if rescale == "paper":
        return 1.0 / density
    return restoring_factor(source, index, lambda delta, tile: drop_at_random(delta, tile, index, density))


def restoring_factor(source: TensorSource, index: int, thin: Callable[[Tensor, Tile], Tensor]) -> float:
    """Return the factor that restores the L1 norm of input `index`'s delta after `thin`; 1 if a norm is below 1e-7."""

    def norms(tile: Tile) -> tuple[float, float]:
        delta = source.deltas(index, tile)
        whole = total(delta.abs())
        return whole, total(thin(delta, tile).abs_())

    whole, kept = (sum(part) for part in zip(*source.map(norms), strict=True))
    return whole / kept if min(whole, kept) >= 1e-7 else 1.0


@dataclass(frozen=True)
class Cut:
    """The k largest elements: magnitude above `threshold`, or equal to it at an index before `end`."""

    threshold: float
    end: int


def cut_mask(cut: Cut | None, source: TensorSource) -> Cuts:
    """Return a cut as a mask for compiled kernels."""
    threshold, end = (0.0, source.numel) if cut is None else (cut.threshold, cut.end)
    return Cuts(source.numel, torch.tensor([threshold]).view(torch.int32), torch.tensor([end]))


def largest(source: TensorSource, index: int, density: float, *, at_least: int = 0) -> Cut | None:
    """Return the cut that keeps the int(density * numel) largest of input `index`'s delta; None keeps everything.

    at_least: minimum number to keep of a tensor with as many elements, unless the density is zero.
    Among equal magnitudes the lowest index wins. The histogram is computed once per tensor and input; a new
    density then reads the tensor once and sorts only the bucket that contains the threshold.
    """
    count = max(int(density * source.numel), at_least if density else 0)
    return largest_deltas(source, index, count)


def largest_deltas(source: TensorSource, index: int, count: int) -> Cut | None:
    """Return the cut that keeps the `count` largest of input `index`'s delta, see `largest`."""
    return _cut(source, ("magnitudes", index), _Deltas(source, index), count)


def largest_of(source: TensorSource, key: Hashable, read: Read, count: int) -> Cut | None:
    """Return the cut that keeps the `count` largest of any values, which `read` returns for a tile, to be overwritten.

    key: of the histogram in the source's cache.
    """
    return _cut(source, key, _Values(source, read), count)


def _cut(source: TensorSource, key: Hashable, values: "_Values", count: int) -> Cut | None:
    if count >= source.numel:
        return None
    if key not in source.cache:
        source.cache[key] = _Magnitudes(*values.count())
    magnitudes: _Magnitudes = source.cache[key]
    return magnitudes.cut(values, count)


def trim(delta: Tensor, cut: Cut | None, tile: Tile) -> Tensor:
    """Set elements outside the cut to zero, in place."""
    if cut is None:
        return delta
    middle = min(max(cut.end - tile.start, 0), len(delta))
    # hardshrink zeroes |x| <= lambda: before `end` the threshold itself is kept.
    below = float(np.nextafter(np.float32(cut.threshold), np.float32(0)))
    for part, limit in ((delta[:middle], below), (delta[middle:], cut.threshold)):
        if len(part):
            torch.hardshrink(part, limit, out=part)
    return delta


class _Values:
    """Values whose largest are found, read tile by tile."""

    def __init__(self, source: TensorSource, read: Read) -> None:
        self._source = source
        self._read = read

    def count(self) -> tuple[Buckets, Counted | None]:
        """Return the number of values in each bucket of magnitudes, and in each block if a kernel counts them."""
        counts = np.zeros(_MAGNITUDE + 1 >> TRAILING_BITS, dtype=np.int64)

        def count(tile: Tile) -> None:
            buckets = self._read(tile).view(torch.int32).bitwise_and_(_MAGNITUDE)
            buckets.bitwise_right_shift_(TRAILING_BITS)
            np.add(counts, np.bincount(buckets.cpu().numpy(), minlength=len(counts)), out=counts)

        self._source.map(count)
        return (np.flatnonzero(counts).astype(np.uint16), counts[counts > 0]), None

    def cut(self, bucket: int, wanted: int, counted: Counted | None) -> Cut:  # noqa: ARG002 - see _Deltas
        """Return the cut that keeps the `wanted` largest values of a bucket, one at least, and all larger ones."""

        def members(tile: Tile) -> Members:
            bits = self._read(tile).view(torch.int32).bitwise_and_(_MAGNITUDE)
            buckets = tile.scratch("buckets", bits).view(torch.int32)
            inside = _positions(torch.bitwise_and(bits, -1 << TRAILING_BITS, out=buckets), bucket << TRAILING_BITS)
            return inside + tile.start, bits.cpu().numpy()[inside]

        return _smallest_of(self._source.map(members), wanted)


class _Deltas(_Values):
    """The delta of an input, read in compiled passes where that is possible."""

    def __init__(self, source: TensorSource, index: int) -> None:
        super().__init__(source, lambda tile: source.deltas(index, tile))
        self._models = source.whole(index), source.whole(BASE)

    def count(self) -> tuple[Buckets, Counted | None]:
        counted = count_magnitudes(*self._models, self._source.pieces)
        return super().count() if counted is None else (counted.buckets, counted)

    def cut(self, bucket: int, wanted: int, counted: Counted | None) -> Cut:
        if counted is None:
            return super().cut(bucket, wanted, counted)
        # In 16 bits most deltas have no trailing bits: they are equal, and only one block has to be read.
        rank = wanted - int(counted.with_key(2 * bucket + 1).sum()) - 1
        if rank < 0:
            return _smallest_of(list_magnitudes(*self._models, bucket, self._source.pieces), wanted)
        up_to = counted.with_key(2 * bucket).cumsum()
        block = int(np.searchsorted(up_to, rank, side="right"))
        rank -= int(up_to[block - 1]) if block else 0
        first = bucket << TRAILING_BITS
        return Cut(_value_of(first), place_of_magnitude(*self._models, first, rank, counted.blocks[block]) + 1)


def _smallest_of(parts: Sequence[Members], wanted: int) -> Cut:
    """Return the cut that keeps the `wanted` largest of these values, in order of their positions."""
    positions = np.concatenate([part for part, _ in parts])
    bits = np.concatenate([part for _, part in parts])
    threshold = np.partition(bits, len(bits) - wanted)[len(bits) - wanted]
    ties = positions[bits == threshold][: wanted - int(np.count_nonzero(bits > threshold))]
    return Cut(_value_of(threshold), int(ties[-1]) + 1)


def _value_of(bits: int) -> float:
    return float(np.int32(bits).view(np.float32))


class _Magnitudes:
    """Histogram of magnitudes by the leading bits of the float; only non-empty buckets."""

    def __init__(self, buckets: Buckets, counted: Counted | None) -> None:
        self._counted = counted
        self._buckets, numbers = buckets
        #: Number of elements in this bucket or a larger one.
        self._from_here_up = numbers[::-1].cumsum()[::-1]
        self._cuts: dict[int, Cut] = {}

    def cut(self, values: _Values, count: int) -> Cut:
        if count not in self._cuts:
            while len(self._cuts) >= _CUTS_KEPT:
                del self._cuts[next(iter(self._cuts))]
            self._cuts[count] = self._find(values, count)
        return self._cuts[count]

    def _find(self, values: _Values, count: int) -> Cut:
        if count == 0:
            return Cut(float("inf"), 0)
        place = int(np.searchsorted(-self._from_here_up, -count, side="right")) - 1
        above = int(self._from_here_up[place + 1]) if place + 1 < len(self._buckets) else 0
        return values.cut(int(self._buckets[place]), count - above, self._counted)


def _positions(values: Tensor, wanted: int) -> NDArray[np.int64]:
    if values.device.type == "cpu":
        return np.flatnonzero(values.numpy() == wanted)  # four times as fast as torch.nonzero
    return torch.nonzero(values == wanted).flatten().cpu().numpy()


@lru_cache(maxsize=4096)
def keys(seed: int, tensor: str, input_name: str) -> tuple[int, int]:
    """Return the keys of a tensor's random numbers: one to add to the counter, and one between rounds of mixing."""
    text = "\0".join((str(seed), tensor, input_name))
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return _signed(int.from_bytes(digest[:4], "little")), _signed(int.from_bytes(digest[4:], "little"))


@lru_cache(maxsize=16)
def _counter(size: int, device: str) -> Tensor:
    return torch.arange(size, dtype=torch.int32, device=device).mul_(_signed(_STEP))


def _signed(value: int) -> int:
    return (value + 2**31) % 2**32 - 2**31
