"""Compiled kernels that count the magnitudes of a delta by their leading bits, and list those with given ones.

Digest of words.py: 5a3d5fe8cb3a24c1
"""

from typing import Any

import numpy as np

from evomerge.merging.fused.words import compiled, load, magnitude

#: Elements whose keys are computed before they are counted, elements tested together, and numbers read together.
_BLOCK, _GROUP, _NUMBERS = 2048, 32, 32
_HALF = np.uint32(16)


@compiled
def count(
    model: Any, kind: Any, base: Any, base_kind: Any, tables: Any, keys: Any, numbers: Any, start: int, stop: int
) -> Any:
    """Count the elements [start, stop) whose delta has the same key.

    A key is twice the leading 15 bits of a magnitude, plus one if any of its 16 trailing bits is set. tables: zeros,
    (2, 2**16); they are left as zeros. Neighbors are counted in different ones, since an addition waits for an earlier
    one to the same number. keys, numbers: (2**16,), receive the keys in ascending order and how often they were found.

    Returns:
        The number of different keys.
    """
    block = np.empty(_BLOCK, np.uint16)
    pairs, evens, odds = block.view(np.uint32), tables[0], tables[1]
    # Magnitudes lie within few exponents, but for zero.
    lowest, highest = np.uint32(0xFFFFFFFF), np.uint32(0)
    for begin in range(start, stop, _BLOCK):
        size = min(_BLOCK, stop - begin)
        for place in range(size):
            bits = magnitude(load(model, begin + place, kind) - load(base, begin + place, base_kind))
            key = np.uint32(np.uint32(np.uint32(bits + np.uint32(0xFFFF)) >> _HALF) + np.uint32(bits >> _HALF))
            block[place] = key
            lowest = min(lowest, np.uint32(key - np.uint32(1)))
            highest = max(highest, key)
        for place in range(size // 2):
            pair = pairs[place]
            evens[pair & np.uint32(0xFFFF)] += np.uint32(1)
            odds[pair >> _HALF] += np.uint32(1)
        if size % 2:
            evens[block[size - 1]] += np.uint32(1)
    found = 0
    for first in range(0, np.int64(highest) + 1, _NUMBERS):
        if first and first + _NUMBERS <= np.int64(lowest):
            continue
        for entry in range(first, first + _NUMBERS):
            number = np.uint32(evens[entry] + odds[entry])
            keys[found], numbers[found] = entry, number
            found += number != 0
            evens[entry] = odds[entry] = np.uint32(0)
    return found


@compiled
def members(
    model: Any, kind: Any, base: Any, base_kind: Any, first: Any, size: Any, places: Any, bits: Any,
    start: int, stop: int,
) -> Any:  # fmt: skip
    """List the elements [start, stop) with the leading bits of `first` that are above it.

    first: the smallest magnitude with these bits; size: how many there are, a power of two. places, bits: receive
    positions and magnitudes.

    Returns:
        The number of elements listed.
    """
    found = 0
    for begin in range(start, stop, _GROUP):
        if begin + _GROUP <= stop:
            nearest = np.uint32(0xFFFFFFFF)
            for place in range(_GROUP):
                delta = load(model, begin + place, kind) - load(base, begin + place, base_kind)
                away = np.uint32(magnitude(delta) ^ first)
                nearest = min(nearest, np.uint32(away - np.uint32(1)))
            if nearest >= size - 1:
                continue
        for index in range(begin, min(begin + _GROUP, stop)):
            delta = load(model, index, kind) - load(base, index, base_kind)
            away = np.uint32(magnitude(delta) ^ first)
            if 0 < away < size:
                places[found] = index
                bits[found] = magnitude(delta)
                found += 1
    return found


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
