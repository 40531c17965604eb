"""The magnitudes of a delta, counted and listed by their leading bits in compiled passes over a model and the base."""

import threading
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from evomerge.merging.fused.tensors import Pieces, Words, kernels

#: Trailing bits of a magnitude, which its bucket leaves open.
TRAILING_BITS = 16
#: Elements of a block: a search in it takes 0.1 ms, and its numbers a few percent of the memory of a model.
_BLOCK = 262144
_BUCKETS = 1 << 31 - TRAILING_BITS
_NOT_COUNTED = "Only elements that were counted by a compiled kernel can be found by one."

#: Positions of elements and their magnitudes, as bits.
Members = tuple[NDArray[np.int64], NDArray[np.int32]]


class Counted(NamedTuple):
    """How many elements of a delta have a key, in each block of it.

    A key is twice the leading bits of a magnitude, plus one if any of its trailing bits is set. keys: those that occur,
    ascending, (n_keys,). numbers: (n_blocks, n_keys). blocks: [start, stop) of each.
    """

    keys: NDArray[np.uint16]
    numbers: NDArray[np.uint32]
    blocks: Sequence[tuple[int, int]]

    @property
    def buckets(self) -> tuple[NDArray[np.uint16], NDArray[np.int64]]:
        """Return which leading bits of a magnitude occur, ascending, and how many elements have them."""
        both = np.right_shift(self.keys, 1, dtype=np.uint16)
        first = np.flatnonzero(np.diff(both, prepend=~both[:1]))
        return both[first], np.add.reduceat(self.numbers.sum(axis=0, dtype=np.int64), first)

    def with_key(self, key: int) -> NDArray[np.int64]:
        """Return the number of elements with a key in each block, (n_blocks,)."""
        place = int(np.searchsorted(self.keys, key))
        found = place < len(self.keys) and self.keys[place] == key
        return self.numbers[:, place].astype(np.int64) if found else np.zeros(len(self.blocks), np.int64)


class _Memory(threading.local):
    """Memory for counting, one for each thread, which takes long to allocate."""

    def __init__(self) -> None:
        self.tables = np.zeros((2, 2 * _BUCKETS), np.uint32)
        self.keys = np.empty(2 * _BUCKETS, np.uint16)
        self.numbers = np.empty(2 * _BUCKETS, np.uint32)


_memory = _Memory()


def count_magnitudes(model: Tensor, base: Tensor, pieces: Pieces) -> Counted | None:
    """Count the elements of model - base; None if a tensor is unsuitable."""
    counts = kernels("counts")
    words = Words.of([model, base]) if counts else None
    if counts is None or words is None:
        return None
    arguments = (*words.first, *words.last)

    def some(start: int, stop: int) -> list[tuple[tuple[int, int], NDArray[np.uint16], NDArray[np.uint32]]]:
        made = []
        for begin in range(start, stop, _BLOCK):
            end = min(begin + _BLOCK, stop)
            n = counts.count(*arguments, _memory.tables, _memory.keys, _memory.numbers, begin, end)
            made.append(((begin, end), _memory.keys[:n].copy(), _memory.numbers[:n].copy()))
        return made

    found = [part for piece in pieces(some) for part in piece]
    occurs = np.zeros(2 * _BUCKETS, np.bool_)
    for _, keys, _ in found:
        occurs[keys] = True
    union = np.flatnonzero(occurs).astype(np.uint16)
    columns = np.empty(2 * _BUCKETS, np.uint16)  # only those of the union are used
    columns[union] = np.arange(len(union))
    table = np.zeros((len(found), len(union)), np.uint32)
    for row, (_, keys, numbers) in zip(table, found, strict=True):
        row[columns[keys]] = numbers
    return Counted(union, table, [block for block, _, _ in found])


def list_magnitudes(model: Tensor, base: Tensor, bucket: int, pieces: Pieces) -> list[Members]:
    """List the elements of model - base whose magnitude has these leading bits and others; tensors as counted."""
    counts, words = kernels("counts"), Words.of([model, base])
    if counts is None or words is None:
        raise ValueError(_NOT_COUNTED)
    arguments = (*words.first, *words.last, np.uint32(bucket << TRAILING_BITS), np.uint32(1 << TRAILING_BITS))

    def some(start: int, stop: int) -> Members:
        # Memory that is not written to is never allocated, and few elements are listed.
        places, bits = np.empty(stop - start, np.int64), np.empty(stop - start, np.int32)
        n = counts.members(*arguments, places, bits, start, stop)
        return places[:n].copy(), bits[:n].copy()

    return pieces(some)


def place_of_magnitude(model: Tensor, base: Tensor, bits: int, rank: int, block: tuple[int, int]) -> int:
    """Return where the element of a block is before which `rank` others have this magnitude; tensors as counted."""
    counts, words = kernels("counts"), Words.of([model, base])
    if counts is None or words is None:
        raise ValueError(_NOT_COUNTED)
    return int(counts.place_of(*words.first, *words.last, np.uint32(bits), rank, *block))
