"""Triton's kernel of sums of models times coefficients, with the bits of `sums.py` and of PyTorch's operations."""

# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from evomerge.merging.fused.cuda_words import BLOCK, EXACTLY, compiled, load, magnitude, store, words


@compiled
def _term(model, coefficient, origin, place, inside):
    """Return coefficient times the model at some positions, or times its difference to `origin`."""
    value = load(model, place, inside)
    if origin is not None:
        value = value - origin
    return value * coefficient


@compiled
def _write(
    models, coefficients, base, out, flag, size, rounding: tl.constexpr, limit: tl.constexpr, block: tl.constexpr
):
    """Write a block of base + sum of coefficient times delta, rounded; without a base, of coefficient times model.

    The flag is set if a result has at least the magnitude `limit` before it is rounded.
    """
    place = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = place < size
    origin = None if base is None else load(base, place, inside)
    total = _term(models[0], coefficients[0], origin, place, inside)  # not a sum with zero: 0 + -0 is 0
    for number in tl.static_range(1, len(models)):
        total = total + _term(models[number], coefficients[number], origin, place, inside)
    if origin is not None:
        total = origin + total
    # All programs that write to the flag write the same.
    tl.store(flag, 1, mask=tl.max(magnitude(total), axis=0) >= limit)
    store(out, place, inside, total, rounding)


def write(
    models: Sequence[Tensor],
    coefficients: Sequence[float],
    base: Tensor | None,
    place: Tensor,
    dtype: torch.dtype,
    limit: int,
    flag: Tensor,
) -> None:
    """Write a sum to `place`, rounded to `dtype`, without waiting for the GPU; see `write_sum`.

    Args:
        models: Contiguous tensors of one shape on the GPU.
        coefficients: One per model, values of a float32.
        base: What is subtracted from the models and added to the result, or None.
        place: The contiguous tensor to write to, of `dtype` or float32.
        dtype: The dtype that results are rounded to.
        limit: The smallest magnitude, as bits of a float32, that is not finite in this dtype.
        flag: An int32, which is set to 1 if a result is not finite.
    """
    if not place.numel():
        return
    with torch.cuda.device_of(place):
        _write[(triton.cdiv(place.numel(), BLOCK),)](
            tuple(words(model) for model in models),
            tuple(coefficients),
            None if base is None else words(base),
            words(place),
            flag,
            place.numel(),
            str(dtype).removeprefix("torch."),
            limit,
            BLOCK,
            **EXACTLY,
        )


def exact(device: torch.device, limit: int) -> bool:
    """Return whether a sum on this GPU has the bits of PyTorch's operations there; limit: of bfloat16."""
    place = torch.arange(1.0, 4097.0)
    place[::3] *= 1e-39  # denormal numbers
    base, one, other = [(place * step).to(device) for step in (0.3, 0.7, -1.1)]
    base, out = base.bfloat16(), torch.zeros(len(place), dtype=torch.bfloat16, device=device)
    factors = torch.tensor([0.3, -0.7]).tolist()
    write([one, other], factors, base, out, out.dtype, limit, torch.zeros(4, dtype=torch.int32, device=device))
    expected = (one - base.float()) * factors[0] + (other - base.float()) * factors[1] + base.float()
    return torch.equal(words(out), words(expected.bfloat16()))
