"""Compiled kernels that count the magnitudes of a delta by their leading bits, and list those with given ones.

Digest of words.py: 5a3d5fe8cb3a24c1
"""

from typing import Any

import numpy as np

from evomerge.merging.fused.words import compiled, load, magnitude

#: Elements whose magnitudes are computed before they are counted, and elements tested together.
_BLOCK, _GROUP = 2048, 32


@compiled
def count(model: Any, kind: Any, base: Any, base_kind: Any, shift: int, counts: Any, start: int, stop: int) -> None:
    """Add the elements [start, stop) to the numbers of deltas with the same leading bits of their magnitude.

    shift: number of trailing bits, at least 16.
    """
    buckets = np.empty(_BLOCK, np.uint16)
    for begin in range(start, stop, _BLOCK):
        size = min(_BLOCK, stop - begin)
        for place in range(size):
            delta = load(model, begin + place, kind) - load(base, begin + place, base_kind)
            buckets[place] = magnitude(delta) >> shift
        for place in range(size):
            counts[buckets[place]] += 1


@compiled
def members(
    model: Any, kind: Any, base: Any, base_kind: Any, first: Any, size: Any, places: Any, bits: Any,
    start: int, stop: int,
) -> Any:  # fmt: skip
    """List the elements [start, stop) with the leading bits of `first` that are above it; count those equal to it.

    first: the smallest magnitude with these bits; size: how many there are, a power of two. places, bits: receive
    positions and magnitudes. In 16 bits most deltas have no trailing bits: they are counted without branches.

    Returns:
        The number of elements listed, and the number of those equal to `first`.
    """
    found, equal = 0, 0
    for begin in range(start, stop, _GROUP):
        if begin + _GROUP <= stop:
            nearest, same = np.uint32(0xFFFFFFFF), np.uint32(0)
            for place in range(_GROUP):
                delta = load(model, begin + place, kind) - load(base, begin + place, base_kind)
                away = np.uint32(magnitude(delta) ^ first)
                nearest = min(nearest, np.uint32(away - np.uint32(1)))
                same = np.uint32(same + np.uint32(away == 0))
            equal += int(same)
            if nearest >= size - 1:
                continue
        for index in range(begin, min(begin + _GROUP, stop)):
            delta = load(model, index, kind) - load(base, index, base_kind)
            away = np.uint32(magnitude(delta) ^ first)
            if 0 < away < size:
                places[found] = index
                bits[found] = magnitude(delta)
                found += 1
            if begin + _GROUP > stop:
                equal += away == 0
    return found, equal


@compiled
def place_of(
    model: Any, kind: Any, base: Any, base_kind: Any, wanted: Any, rank: int, start: int, stop: int
) -> int:  # fmt: skip
    """Return the position of the element of [start, stop) before which `rank` others have this magnitude, too."""
    begin = start
    while begin + _GROUP <= stop:
        same = np.uint32(0)
        for place in range(_GROUP):
            delta = load(model, begin + place, kind) - load(base, begin + place, base_kind)
            same = np.uint32(same + np.uint32(magnitude(delta) == wanted))
        if same > rank:
            break
        rank -= int(same)
        begin += _GROUP
    for index in range(begin, stop):
        if magnitude(load(model, index, kind) - load(base, index, base_kind)) == wanted:
            if rank == 0:
                return index
            rank -= 1
    return stop
