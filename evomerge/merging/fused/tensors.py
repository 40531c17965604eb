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

#: Coefficients from here on are left to PyTorch: they may overflow in float32.
_LARGE = 1e38

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


def kernels(name: str) -> ModuleType | None:
    """Return a module of compiled kernels; None without Numba."""
    return _module(name) if _enabled else None


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
    def of(cls, tensors: Sequence[Tensor]) -> "Words | None":
        """Return those of some tensors; None if a kernel cannot read one of them."""
        kinds = kinds_by_dtype()
        if all(t.is_cpu and t.dtype in kinds and t.is_contiguous() for t in tensors):
            return cls(tuple([t.data_ptr() for t in tensors]), tuple([kinds[t.dtype] for t in tensors]))
        return None

    @property
    def first(self) -> tuple[int, Any]:
        """Return address and kind of the first tensor."""
        return self.addresses[0], self.kinds[0]

    @property
    def last(self) -> tuple[int, Any]:
        """Return address and kind of the last tensor."""
        return self.addresses[-1], self.kinds[-1]

    def of_models(self, count: int) -> tuple[tuple[int, ...], tuple[Any, ...]]:
        """Return addresses and kinds of the tensors after the first."""
        return self.addresses[1 : count + 1], self.kinds[1 : count + 1]


def _optional(tensor: Tensor | None) -> tuple[Tensor, ...]:
    return () if tensor is None else (tensor,)


@cache
def kinds_by_dtype() -> dict[torch.dtype, Any]:
    """Return the kind of values of each dtype that kernels read and write."""
    words = import_module("evomerge.merging.fused.words")
    return {torch.bfloat16: words.BFLOAT16, torch.float16: words.FLOAT16, torch.float32: words.FLOAT32}


@cache
def overflow(dtype: torch.dtype) -> int:
    """Return the smallest magnitude of a float32, as its bits, that is not finite in this dtype."""
    limit: int = import_module("evomerge.merging.fused.words").OVERFLOWS[type(kinds_by_dtype()[dtype])]
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
    sums = kernels("sums")
    words = Words.of([place, *models, *_optional(base)]) if sums and models else None
    if sums is None or words is None or place.dtype not in (dtype, torch.float32):
        return False
    addresses, kinds = words.of_models(len(models))
    origin = words.last if base is not None else (None, None)
    result = (*words.first, kinds_by_dtype()[dtype])
    if not all(abs(value) < _LARGE for value in coefficients):
        return False
    factors = tuple([np.float32(value) for value in coefficients])
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
    dots = kernels("dots")
    words = Words.of([gradient, *models, *_optional(base)]) if dots else None
    if dots is None or words is None:
        return None
    addresses, kinds = words.of_models(len(models))
    origin = words.last if base is not None else (None, None)

    def sums(start: int, stop: int) -> list[float]:
        found: list[float] = []
        for first in range(0, len(models), _AT_ONCE):
            some = slice(first, first + _AT_ONCE)
            zeros = (0.0,) * len(addresses[some])
            found += dots.add_dots(zeros, addresses[some], kinds[some], *origin, *words.first, start, stop)
        return found

    return [sum(column) for column in zip(*pieces(sums), strict=True)]
