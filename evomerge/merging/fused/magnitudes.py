"""The magnitudes of a delta, counted and listed by their leading bits in compiled passes over a model and the base."""

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


def list_magnitudes(
    model: Tensor, base: Tensor, shift: int, bucket: int, pieces: Pieces
) -> list[tuple[NDArray[np.int64], NDArray[np.int32]]] | None:
    """Return positions and magnitudes (as bits) of the elements with these leading bits, in order, in parts.

    None if a tensor is unsuitable.
    """
    counts = kernels("counts")
    words = Words.of([model, base]) if counts else None
    if counts is None or words is None:
        return None
    arguments = (*words.first, *words.last, np.uint32(bucket << shift), np.uint32(1 << shift))

    def some(start: int, stop: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        # Memory that is not written to is never allocated, and few elements are listed.
        places, bits = np.empty(stop - start, np.int64), np.empty(stop - start, np.int32)
        n = counts.members(*arguments, places, bits, start, stop)
        return places[:n].copy(), bits[:n].copy()

    return pieces(some)
