"""Tensors in compiled kernels: the conditions under which they can be, and their addresses.

Numba compiles for the CPU, Triton for GPUs. Both take long to import, and a merge works without them: the first merge
on a device imports the one it needs. Where a function here returns None or False, the caller computes the same with
PyTorch.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from evomerge.merging.fused.flags import Flag, Flags

#: Models whose values a kernel has in registers at once; more of them are added to a buffer first.
_AT_ONCE = 4
#: Elements of that buffer: 256 KiB, which stay in the second level cache of a core.
_BUFFER = 65536

#: Models that a kernel on a GPU takes.
_MOST_ON_GPU = 64
#: Dtype -> the smallest magnitude, as bits of a float32, that is not finite in it: halfway beyond the largest value.
_OVERFLOWS = {torch.bfloat16: 0x7F7F8000, torch.float16: 0x477FF000, torch.float32: 0x7F800000}

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
    except ImportError:  # Numba or Triton is missing, or does not support this version of Python or NumPy
        return None


def kernels_on_gpu(name: str, device: torch.device) -> ModuleType | None:
    """Return a module of Triton's kernels; None where Triton is missing or does not give the bits of PyTorch."""
    return _module(name) if _enabled and _triton_works(device) else None


@cache
def _triton_works(device: torch.device) -> bool:
    """Compile a sum, and compare it with PyTorch's on the same GPU."""
    sums, words = _module("cuda_sums"), _module("cuda_words")
    if sums is None or words is None:
        return False
    try:
        problem = "" if sums.exact(device, _OVERFLOWS[torch.bfloat16]) else "its sums differ from those of PyTorch"
    except words.FAILURES as error:
        problem = str(error).strip() or type(error).__name__
    if problem:
        warnings.warn(f"Merges on {device} run without Triton: {problem}.", RuntimeWarning, stacklevel=2)
    return not problem


def on_gpu(tensors: Sequence[Tensor]) -> bool:
    """Return whether kernels on a GPU can read all of some tensors; they must be on the same one."""
    return all(
        t.is_cuda and t.device == tensors[0].device and t.dtype in _OVERFLOWS and t.is_contiguous() for t in tensors
    )


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

    @property
    def in_pairs(self) -> bool:
        """Return whether all tensors are bfloat16, two of which make a word."""
        kind = kinds_by_dtype()[torch.bfloat16]
        return all(type(other) is type(kind) for other in self.kinds)

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


def overflow(dtype: torch.dtype) -> int:
    """Return the smallest magnitude of a float32, as its bits, that is not finite in this dtype."""
    return _OVERFLOWS[dtype]


def write_sum(
    models: Sequence[Tensor],
    coefficients: Sequence[float],
    base: Tensor | None,
    place: Tensor,
    dtype: torch.dtype,
    pieces: Pieces,
    flag: Flag | None = None,
) -> bool:
    """Write the sum of coefficient times model, or the base plus that of coefficient times delta, in one pass.

    Args:
        models: Tensors of one shape.
        coefficients: One per model.
        base: What is subtracted from the models and added to the result, or None.
        place: The tensor to write to.
        dtype: The dtype that results are rounded to, that of `place` unless it is float32.
        pieces: Divides the tensor among threads, on the CPU.
        flag: On a GPU, is set later if results are not finite; without one, this function waits for the GPU.

    Returns:
        Whether all results are written and, unless the flag will be set, finite. If not, `place` has arbitrary values.
    """
    if not models or place.dtype not in (dtype, torch.float32) or not all(abs(c) < _LARGE for c in coefficients):
        return False
    if on_gpu([place, *models, *_optional(base)]):
        return _write_on_gpu(models, coefficients, base, place, dtype, flag)
    sums = kernels("sums")
    words = Words.of([place, *models, *_optional(base)]) if sums else None
    if sums is None or words is None:
        return False
    addresses, kinds = words.of_models(len(models))
    origin = words.last if base is not None else (None, None)
    result = (*words.first, kinds_by_dtype()[dtype])
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


def _write_on_gpu(
    models: Sequence[Tensor],
    coefficients: Sequence[float],
    base: Tensor | None,
    place: Tensor,
    dtype: torch.dtype,
    flag: Flag | None,
) -> bool:
    sums = kernels_on_gpu("cuda_sums", place.device)
    if sums is None or dtype not in _OVERFLOWS or len(models) > _MOST_ON_GPU:
        return False
    flags = Flags(1, place.device)
    factors = [float(np.float32(value)) for value in coefficients]
    sums.write(models, factors, base, place, dtype, overflow(dtype), (flag or flags.at(0))())
    return not flags.raised()


def model_dots(models: Sequence[Tensor], base: Tensor | None, gradient: Tensor, pieces: Pieces) -> list[float] | None:
    """Return the dot product of a gradient with each model, or each delta, in one pass; None if a tensor is unsuitable.

    Args:
        models: Tensors of one shape.
        base: What is subtracted from the models, or None.
        gradient: A tensor of that shape.
        pieces: Divides the tensors among threads, on the CPU.
    """
    if models and on_gpu([gradient, *models, *_optional(base)]):
        module = kernels_on_gpu("cuda_dots", gradient.device)
        if module is None or len(models) > _MOST_ON_GPU:
            return None
        products: list[float] = module.dots(models, base, gradient)
        return products
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
