"""Floating-point values in the memory of a GPU as Triton's kernels read and write them, as `words.py` does on the CPU.

A bfloat16 is passed as an int16 and converted by integer operations, which are the same in Triton's interpreter, whose
own conversion does not round to even. Functions of kernels have no annotations, which Triton would look up.
"""

# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs

from collections.abc import Callable
from subprocess import SubprocessError
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.errors import TritonError

if tuple(map(int, triton.__version__.split(".")[:2])) < (3, 6):
    raise ImportError(f"Triton {triton.__version__} flushes denormal numbers in divisions (div.rn.ftz); 3.6 does not.")

#: Dtypes that kernels read and write.
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
#: Elements that one program works on, 8 per thread: 16 bytes of a 16-bit dtype.
BLOCK = 1024
#: Without fused multiply-add, which skips a rounding and would change the last bits: Triton's default depends on its
#: version. Denormal numbers are kept by Triton's floating-point operations.
EXACTLY = {"enable_fp_fusion": False, "num_warps": 4}
#: Errors where Triton cannot compile, for want of a C compiler or a folder to write to, or not for this GPU.
FAILURES = (OSError, RuntimeError, SubprocessError, TritonError)


def compiled(function: Callable[..., Any]) -> Any:
    """Compile a kernel on first use, cached on disk."""
    return triton.jit(function)


def words(tensor: Tensor) -> Tensor:
    """Return a tensor as kernels take it."""
    return tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor


@compiled
def load(pointer, place, inside):
    """Return the values at some positions as float32, zeros where not `inside`."""
    word = tl.load(pointer + place, mask=inside, other=0)
    if word.dtype == tl.int16:
        return (word.to(tl.int32) << 16).to(tl.float32, bitcast=True)
    else:  # noqa: RET505  without it, Triton compiles both
        return word.to(tl.float32)


@compiled
def magnitude(value):
    """Return the bits of float32 values without their signs, which order as absolute values do, NaN last."""
    return value.to(tl.int32, bitcast=True) & 0x7FFFFFFF


@compiled
def store(pointer, place, inside, value, rounding: tl.constexpr):
    """Round float32 values to the dtype `rounding`, to nearest and ties to even, and write them.

    The tensor has that dtype or is float32. Values that are not finite, before or after rounding, give arbitrary bits.
    """
    if rounding == "bfloat16":
        bits = value.to(tl.uint32, bitcast=True)
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        if pointer.dtype.element_ty == tl.int16:
            tl.store(pointer + place, bits.to(tl.int16), mask=inside)
        else:
            tl.store(pointer + place, (bits << 16).to(tl.float32, bitcast=True), mask=inside)
    elif rounding == "float16":
        tl.store(pointer + place, value.to(tl.float16).to(pointer.dtype.element_ty), mask=inside)
    else:
        tl.store(pointer + place, value, mask=inside)
