"""Gram matrices of the models at a tensor: dot products of all pairs, which determine norms and angles.

Methods on spheres return the sum of models times coefficients that depend only on these numbers. They are summed
in float64 by one thread, once per tensor: a later merge with other parameters reads the models only once.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evomerge.merging.kernels.lines import Lines, block, blocks
from evomerge.merging.tiles import BASE, TILE, TensorSource

#: "weights" unchanged, "deltas" to the base, or weights "centred" to mean zero.
Of = Literal["weights", "deltas", "centred"]
FloatArray = NDArray[np.float64]
#: Elements converted to float64 at a time if a tile is the whole tensor.
_PART = 64 * TILE


def gram(source: TensorSource, of: Of, *, with_base: bool = False) -> FloatArray:
    """Return dot products of the flattened inputs, (n_inputs, n_inputs); with the base, it is first of n_inputs + 1.

    Call it from `prepare`, which runs in one thread: a sum's last bits depend on their number.
    """
    if with_base and of == "deltas":
        raise ValueError("The base has no delta: request the deltas of the inputs only.")
    members = (BASE, *range(len(source.input_names))) if with_base else tuple(range(len(source.input_names)))
    key = ("gram", of, with_base)
    if key not in source.cache:
        shifts = means(source, with_base=with_base) if of == "centred" else np.zeros(len(members))
        source.cache[key] = _products(source, members, of == "deltas", shifts)
    return np.array(source.cache[key])


def means(source: TensorSource, *, with_base: bool = False) -> FloatArray:
    """Return the mean of each input's elements, (n_inputs,), the base's first if requested; not for empty tensors."""
    key = ("means", with_base)
    if key not in source.cache:
        first = BASE if with_base else 0
        sums = [_sum(source, model) for model in range(first, len(source.input_names))]
        source.cache[key] = np.array(sums) / source.numel
    return np.array(source.cache[key])


def line_grams(source: TensorSource, of: Of, lines: Lines) -> FloatArray:
    """Return `gram` of the inputs, without the base, for each row or column: (lines.count, n_inputs, n_inputs)."""
    key = ("gram", of, lines)
    if key not in source.cache:
        source.cache[key] = _line_products(source, of == "deltas", lines)
    return np.array(source.cache[key])


def cosines(products: FloatArray, shortest: float) -> FloatArray:
    """Return the cosines of the angles of a Gram matrix (..., n, n), in [-1, 1]; 0 for a zero vector.

    A product of two lengths counts as at least `shortest`.
    """
    lengths = np.sqrt(np.diagonal(products, axis1=-2, axis2=-1))
    divisor = np.maximum(lengths[..., :, None] * lengths[..., None, :], shortest)
    quotient = np.divide(products, divisor, out=np.zeros_like(products), where=divisor > 0)
    return np.asarray(np.clip(quotient, -1.0, 1.0))


def _products(source: TensorSource, members: Sequence[int], relative: bool, shifts: FloatArray) -> FloatArray:
    total = np.zeros((len(members), len(members)))
    size = min(_PART, max((tile.stop - tile.start for tile in source.tiles), default=0))
    # One buffer, so that all vectors have the same alignment, which determines the summation order of dot products.
    memory = torch.empty((len(members), size), dtype=torch.float64, device=source.device)
    for tile in source.tiles:
        base = source.base(tile) if relative else None
        models = [source.weights(m, tile) if base is None else source.deltas(m, tile, base) for m in members]
        for parts in zip(*(torch.split(model, _PART) for model in models), strict=True):
            wide = memory[:, : len(parts[0])]
            for row, part, shift in zip(wide, parts, shifts, strict=True):
                row.copy_(part).sub_(float(shift))
            total += _pairs(wide)
    return total


def _pairs(vectors: Tensor) -> FloatArray:
    n = len(vectors)
    found = np.zeros((n, n))
    for i in range(n):
        for j in range(i, n):
            found[i, j] = found[j, i] = torch.dot(vectors[i], vectors[j]).item()
    return found


def _sum(source: TensorSource, model: int) -> float:
    return sum(float(source.weights(model, tile).sum(dtype=torch.float64)) for tile in source.tiles)


def _line_products(source: TensorSource, relative: bool, lines: Lines) -> FloatArray:
    n = len(source.input_names)
    total = np.zeros((lines.count, n, n))
    for start, stop in blocks(source, lines.stride):
        base: Any = block(source, BASE, lines.stride, start, stop) if relative else 0.0
        models = [block(source, m, lines.stride, start, stop).sub_(base).double() for m in range(n)]
        place = slice(start, stop) if lines.along == "row" else slice(None)
        for i in range(n):
            for j in range(i, n):
                sums = (models[i] * models[j]).sum(1 if lines.along == "row" else 0).cpu().numpy()
                total[place, i, j] += sums
                total[place, j, i] = total[place, i, j]
    return total
