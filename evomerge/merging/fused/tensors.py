"""Tensors in compiled kernels: the conditions under which they can be, and their addresses.

Numba takes long to import, and a merge works without it: it is imported by the first merge on the CPU. Where a
function here returns None or False, the caller computes the same with PyTorch.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

#: Models whose values a kernel has in registers at once; more of them are added to a buffer first.
_AT_ONCE = 4
#: Elements of that buffer: 256 KiB, which stay in the second level cache of a core.
_BUFFER = 65536

#: Calls a kernel for all pieces (start, stop) of a tensor and returns its results in order: `TensorSource.pieces`.
Pieces = Callable[[Callable[[int, int], Any]], list[Any]]

_enabled = True


@contextmanager
def torch_only() -> Iterator[None]:
    """Compute with PyTorch what compiled kernels would: for tests, and to compare both."""
    global _enabled
    before, _enabled = _enabled, False
    try:
        yield
    finally:
        _enabled = before


def kernels(name: str, *tensors: Tensor) -> ModuleType | None:
    """Return a module of compiled kernels; None without Numba, or if a tensor is not suitable: see `Words`."""
    dtypes = (torch.bfloat16, torch.float16, torch.float32)
    suitable = all(t.device.type == "cpu" and t.dtype in dtypes and t.is_contiguous() for t in tensors)
    return _module(name) if _enabled and suitable else None


@cache
def _module(name: str) -> ModuleType | None:
    try:
        return import_module(f"evomerge.merging.fused.{name}")
    except ImportError:  # Numba is missing, or does not support this version of Python or NumPy
        return None


class Words(NamedTuple):
    """The addresses of contiguous tensors on the CPU and their kinds of values, as kernels take them.

    The tensors must stay alive while a kernel runs.
    """

    addresses: tuple[int, ...]
    kinds: tuple[Any, ...]

    @classmethod
    def of(cls, tensors: Sequence[Tensor]) -> "Words":
        """Return those of tensors that are suitable for kernels."""
        return cls(tuple(t.data_ptr() for t in tensors), tuple(kind(t.dtype) for t in tensors))


@cache
def kind(dtype: torch.dtype) -> Any:
    """Return the kind of values of a dtype."""
    words = import_module("evomerge.merging.fused.words")
    return {torch.bfloat16: words.BFLOAT16, torch.float16: words.FLOAT16, torch.float32: words.FLOAT32}[dtype]


@cache
def overflow(dtype: torch.dtype) -> int:
    """Return the smallest magnitude of a float32, as its bits, that is not finite in this dtype."""
    limit: int = import_module("evomerge.merging.fused.words").OVERFLOWS[type(kind(dtype))]
    return limit


def write_sum(
    models: Sequence[Tensor],
    coefficients: Sequence[float],
    base: Tensor | None,
    place: Tensor,
    dtype: torch.dtype,
    pieces: Pieces,
) -> bool:
    """Write the sum of coefficient times model, or the base plus that of coefficient times delta, in one pass.

    Args:
        models: Tensors of one shape.
        coefficients: One per model.
        base: What is subtracted from the models and added to the result, or None.
        place: The tensor to write to.
        dtype: The dtype that results are rounded to, that of `place` unless it is float32.
        pieces: Divides the tensor among threads.

    Returns:
        Whether all results are written and finite. If not, `place` has arbitrary values.
    """
    own = (*models, place) if base is None else (*models, place, base)
    sums = kernels("sums", *own)
    if sums is None or place.dtype not in (dtype, torch.float32) or not models:
        return False
    with np.errstate(over="ignore"):
        factors = tuple(np.float32(value) for value in coefficients)
    addresses, kinds = Words.of(models)
    origin = (None, None) if base is None else (base.data_ptr(), kind(base.dtype))
    result = (place.data_ptr(), kind(place.dtype), kind(dtype))
    *early, last = range(0, len(models), _AT_ONCE)

    def write(start: int, stop: int) -> int:
        if not early:
            return int(sums.write(addresses, factors, kinds, *origin, None, *result, start, stop))
        buffer = torch.empty(min(_BUFFER, stop - start))
        before, largest = buffer.data_ptr(), 0
        for begin in range(start, stop, _BUFFER):
            end = min(begin + _BUFFER, stop)
            buffer.fill_(-0.0)
            for first in early:
                some = slice(first, first + _AT_ONCE)
                sums.add(addresses[some], factors[some], kinds[some], *origin, before, begin, end)
            rest = addresses[last:], factors[last:], kinds[last:]
            largest = max(largest, int(sums.write(*rest, *origin, before, *result, begin, end)))
        return largest

    return max(pieces(write), default=0) < overflow(dtype)


def model_dots(models: Sequence[Tensor], base: Tensor | None, gradient: Tensor, pieces: Pieces) -> list[float] | None:
    """Return the dot product of a gradient with each model, or each delta, in one pass; None if a tensor is unsuitable.

    Args:
        models: Tensors of one shape.
        base: What is subtracted from the models, or None.
        gradient: A tensor of that shape.
        pieces: Divides the tensors among threads.
    """
    dots = kernels("dots", *models, gradient, *(() if base is None else (base,)))
    if dots is None:
        return None
    addresses, kinds = Words.of(models)
    origin = (None, None) if base is None else (base.data_ptr(), kind(base.dtype))
    factors = gradient.data_ptr(), kind(gradient.dtype)

    def sums(start: int, stop: int) -> list[float]:
        found: list[float] = []
        for first in range(0, len(models), _AT_ONCE):
            some = slice(first, first + _AT_ONCE)
            zeros = (0.0,) * len(addresses[some])
            found += dots.add_dots(zeros, addresses[some], kinds[some], *origin, *factors, start, stop)
        return found

    return [sum(column) for column in zip(*pieces(sums), strict=True)]


def have_kernels() -> bool:
    """Return whether compiled kernels can be used: whether Numba is there."""
    return _module("sums") is not None
