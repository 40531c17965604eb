"""Compiled kernels that count the magnitudes of a delta by their leading bits, and list those with given ones.

Digest of words.py: 0f6d18c8dc6a5222
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
    """List the elements [start, stop) whose magnitude has these leading bits: positions and magnitudes, as bits.

    first: the smallest such magnitude; size: how many there are, a power of two.

    Returns:
        The number of elements found.
    """
    found = 0
    for begin in range(start, stop, _GROUP):
        if begin + _GROUP <= stop:
            # Few groups have any; this loop has no branches and is vectorized.
            nearest = np.uint32(0xFFFFFFFF)
            for place in range(_GROUP):
                delta = load(model, begin + place, kind) - load(base, begin + place, base_kind)
                nearest = min(nearest, np.uint32(magnitude(delta) ^ first))
            if nearest >= size:
                continue
        for index in range(begin, min(begin + _GROUP, stop)):
            delta = load(model, index, kind) - load(base, index, base_kind)
            if np.uint32(magnitude(delta) ^ first) < size:
                places[found] = index
                bits[found] = magnitude(delta)
                found += 1
    return found
