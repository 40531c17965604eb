"""The magnitudes of a delta, counted and listed by their leading bits in compiled passes over a model and the base."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from evomerge.merging.fused.tensors import Pieces, Words, kernels


def count_magnitudes(model: Tensor, base: Tensor, shift: int, pieces: Pieces) -> NDArray[np.int64] | None:
    """Return how many elements of model - base share the leading bits of a magnitude, (2**31 >> shift,).

    shift: number of trailing bits. None if a tensor is unsuitable.
    """
    counts = kernels("counts")
    words = Words.of([model, base]) if counts else None
    if counts is None or words is None:
        return None
    arguments = (*words.first, *words.last, np.uint32(shift))

    def some(start: int, stop: int) -> NDArray[np.uint32]:
        found = np.zeros(1 << 31 - shift, dtype=np.uint32)
        counts.count(*arguments, found, start, stop)
        return found

    total = np.zeros(1 << 31 - shift, dtype=np.int64)
    for part in pieces(some):
        total += part
    return total


class Listed(NamedTuple):
    """A piece [start, stop) of a delta: positions and magnitudes, as bits, of elements above the smallest magnitude.

    equal: number of elements equal to it.
    """

    start: int
    stop: int
    places: NDArray[np.int64]
    bits: NDArray[np.int32]
    equal: int


def list_magnitudes(model: Tensor, base: Tensor, shift: int, bucket: int, pieces: Pieces) -> list[Listed] | None:
    """List the elements of model - base whose magnitude has these leading bits, piece by piece in order.

    None if a tensor is unsuitable.
    """
    counts = kernels("counts")
    words = Words.of([model, base]) if counts else None
    if counts is None or words is None:
        return None
    arguments = (*words.first, *words.last, np.uint32(bucket << shift), np.uint32(1 << shift))

    def some(start: int, stop: int) -> Listed:
        # Memory that is not written to is never allocated, and few elements are listed.
        places, bits = np.empty(stop - start, np.int64), np.empty(stop - start, np.int32)
        n, equal = counts.members(*arguments, places, bits, start, stop)
        return Listed(start, stop, places[:n].copy(), bits[:n].copy(), equal)

    return pieces(some)


def place_of_magnitude(model: Tensor, base: Tensor, bits: int, rank: int, piece: Listed) -> int:
    """Return where the element of a piece is before which `rank` others have this magnitude; tensors as listed."""
    counts, words = kernels("counts"), Words.of([model, base])
    if counts is None or words is None:
        raise ValueError("Only elements that were listed by a compiled kernel have places.")
    return int(counts.place_of(*words.first, *words.last, np.uint32(bits), rank, piece.start, piece.stop))
