"""Orthogonal directions of the deltas of checkpoints: eigenvectors of their Gram matrix."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evomerge.merging.models.model import Model

FloatArray = NDArray[np.float64]

#: Elements of a model that are read, and blocks of a tensor that they come from.
SAMPLE, BLOCKS = 1 << 22, 16
#: Singular values below this share of the largest are rounding.
_RANK = 1e-6


def directions(base: Model, inputs: Sequence[Model], sample: int = SAMPLE) -> tuple[FloatArray, FloatArray]:
    """Return orthonormal rows of input coefficients and the lengths of the deltas that they sum to, longest first.

    Directions whose delta is zero up to rounding are left out. The Gram matrix is that of evenly spaced blocks of every
    tensor, at most `sample` elements of a model: the directions need to be independent, not exact.

    Args:
        base: The last checkpoint.
        inputs: The others, (n_inputs,).
        sample: Number of elements to read of each model.

    Returns:
        Directions, (n_directions, n_inputs), and lengths, (n_directions,), as estimated for whole models.
    """
    names = [name for name in base.names if base.mergeable(name)]
    total = sum(base.tensor(name).numel() for name in names)
    gram = np.zeros((len(inputs), len(inputs)))
    read = 0
    for name in names:
        first = base.tensor(name)
        for part in _blocks(first.numel(), max(1, sample * first.numel() // total)):
            start = first.reshape(-1)[part].double()
            deltas = torch.stack([_part(model, name, part) - start for model in inputs])
            gram += (deltas @ deltas.T).numpy()
            read += part.stop - part.start
    values, vectors = np.linalg.eigh(gram)
    values, rows = np.maximum(values[::-1], 0.0), vectors[:, ::-1].T
    kept = values > _RANK**2 * max(values[0], 1e-300)
    signs = np.sign(rows[np.arange(len(rows)), np.abs(rows).argmax(axis=1)])
    return (rows * signs[:, None])[kept], np.sqrt(values[kept] * (total / max(read, 1)))


def _part(model: Model, name: str, part: slice) -> Tensor:
    return model.tensor(name).reshape(-1)[part].double()


def _blocks(size: int, wanted: int) -> Iterator[slice]:
    """Yield evenly spaced parts of a tensor, `wanted` of its `size` elements in all."""
    count = min(BLOCKS, wanted)
    length = wanted // count
    for begin in np.linspace(0, size - length, count).astype(int) if wanted < size else (0,):
        yield slice(int(begin), int(begin) + (length if wanted < size else size))
