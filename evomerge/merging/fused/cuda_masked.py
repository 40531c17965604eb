"""Triton's kernel of sums and elections of deltas with dropped elements, with the bits of `masked.py`.

A mask is one of these kinds with the numbers of the class in `masks.py`:

    kind      integers               fractions
    random    key, shift, limit      divisor or None
    cut       threshold, end
    middle    those of two cuts
    rank      key, shift, offset     step, lowest, smallest or None; and the ranks

Integers are read from memory: Triton compiles a kernel anew where an integer argument in a tuple is a multiple of 16.
"""

# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from evomerge.merging.fused.cuda_words import BLOCK, EXACTLY, compiled, load, magnitude, store, words

#: Kinds of masks, two bits each of an integer: several versions of Triton take no tuples of texts.
KINDS = ("random", "cut", "middle", "rank")
_RANDOM, _CUT, _MIDDLE = (tl.constexpr(KINDS.index(kind)) for kind in ("random", "cut", "middle"))
#: Integers of a mask in memory.
_WIDTH = tl.constexpr(4)
#: As in `kernels/sparsify.py`.
_STEP, _FIRST, _SECOND = (tl.constexpr(value) for value in (0x9E3779B9, 0x21F0AAAD, 0xD35A2D97))
_SIGN = tl.constexpr(-(2**31))


@compiled
def _random(place, key, shift):
    """Return the random numbers of `kernels/sparsify.py`, u * 2**31 - 2**30."""
    bits = place.to(tl.uint32) * _STEP + key.to(tl.uint32)
    bits = (bits ^ (bits >> 16)) * _FIRST
    bits = ((bits ^ (bits >> 15)) + shift.to(tl.uint32)) * _SECOND
    return bits.to(tl.int32) >> 1


@compiled
def _within(delta, place, cut):
    """Return deltas above a threshold, or equal to it at a place before the end, and zeros. cut: their address."""
    threshold = tl.load(cut).to(tl.int32) - (place < tl.load(cut + 1)).to(tl.int32)
    return tl.where(magnitude(delta) > threshold, delta, 0.0)


@compiled
def _by_rank(delta, place, integers, rank, fractions):
    probability = (rank + tl.load(integers + 2).to(tl.int32)).to(tl.float32) * fractions[0] + fractions[1]
    limit = probability * 2147483648.0 - 1073741824.0
    limit = tl.where(limit > 1073741824.0, 1073741824.0, limit).to(tl.int32)
    delta = tl.where(_random(place, tl.load(integers), tl.load(integers + 1)) < limit, delta, 0.0)
    if fractions[2] is not None:
        smallest = tl.zeros_like(delta) + fractions[2]
        delta = tl.div_rn(delta, tl.where(probability < smallest, smallest, probability))
    return delta


@compiled
def _masked(delta, place, inside, kind: tl.constexpr, integers, fractions, ranks):
    """Return deltas, zero where the mask drops them."""
    if kind == _RANDOM:
        kept = _random(place, tl.load(integers), tl.load(integers + 1)) < tl.load(integers + 2).to(tl.int32)
        delta = tl.where(kept, delta, 0.0)
        if fractions[0] is not None:
            delta = tl.div_rn(delta, tl.zeros_like(delta) + fractions[0])  # `/` is not rounded to nearest
    elif kind == _CUT:
        delta = _within(delta, place, integers)
    elif kind == _MIDDLE:
        delta = _within(delta, place, integers) - _within(delta, place, integers + 2)
    else:
        rank = tl.load(ranks + place, mask=inside, other=0).to(tl.int32)
        delta = _by_rank(delta, place, integers, rank, fractions)
    return delta


@compiled
def _sign(value):
    return (value > 0).to(tl.float32) - (value < 0).to(tl.float32)


@compiled
def _flipped(value, minus):
    return (value.to(tl.int32, bitcast=True) ^ minus).to(tl.float32, bitcast=True)


@compiled
def _elected(deltas, votes, shares, divisors, undecided: tl.constexpr, by_sign: tl.constexpr):
    """Return the sum of the deltas times shares with the elected sign, divided by the sum of their divisors, if any."""
    vote = tl.zeros_like(deltas[0])
    for number in tl.static_range(len(deltas)):
        value = _sign(deltas[number]) if by_sign else deltas[number]
        vote = vote + value * votes[number]
    # A sum that begins with zero is never -0.
    minus = vote.to(tl.int32, bitcast=True) & _SIGN
    if undecided < 0:
        minus = tl.where(vote == 0, _SIGN, minus)
    total = tl.zeros_like(vote)
    divisor = tl.zeros_like(vote)
    for number in tl.static_range(len(deltas)):
        agreeing = _flipped(deltas[number] * shares[number], minus)
        total = total + tl.where(agreeing < 0, 0.0, agreeing)
        if divisors is not None:
            divisor = divisor + tl.where(_flipped(deltas[number], minus) > 0, divisors[number], 0.0)
    if divisors is not None:
        total = tl.div_rn(total, tl.where(divisor == 0, 1.0, divisor))
    if undecided == 0:
        total = total * tl.where(vote == 0, 0.0, 1.0)
    return _flipped(total, minus)


@compiled
def _summed(deltas):
    total = deltas[0]
    for number in tl.static_range(1, len(deltas)):
        total = total + deltas[number]
    return total


@compiled
def _write(
    models, kinds: tl.constexpr, integers, fractions, ranks, factors,
    votes, shares, divisors, undecided: tl.constexpr, by_sign: tl.constexpr,
    base, scale, out, flag, size, rounding: tl.constexpr, limit: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Write a block of base + scale * sum or election of masked deltas times factors, rounded.

    votes: None for a sum. divisors: None for a sum of agreeing deltas.
    """
    place = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = place < size
    origin = load(base, place, inside)
    deltas = ()
    for number in tl.static_range(len(models)):
        delta = load(models[number], place, inside) - origin
        here = integers + number * _WIDTH
        delta = _masked(delta, place, inside, (kinds >> (2 * number)) & 3, here, fractions[number], ranks[number])
        if factors is not None:
            delta = delta * factors[number]
        deltas = deltas + (delta,)  # type: ignore[assignment]  # noqa: RUF005  Triton has no starred expressions
    result = _summed(deltas) if votes is None else _elected(deltas, votes, shares, divisors, undecided, by_sign)
    result = result * scale + origin
    largest = tl.max(tl.where(inside, magnitude(result), 0), axis=0)
    tl.store(flag, 1, mask=largest >= limit)  # all programs that write to the flag write the same
    store(out, place, inside, result, rounding)


class Numbers(NamedTuple):
    """The numbers of a mask, by its kind."""

    kind: str
    integers: tuple[int, ...]
    fractions: tuple[float | None, ...] = ()
    ranks: Tensor | None = None


def write(
    models: Sequence[Tensor],
    masks: Sequence[Numbers],
    factors: Sequence[float] | None,
    election: tuple[Any, ...] | None,
    undecided: int,
    by_sign: bool,
    base: Tensor,
    scale: float,
    place: Tensor,
    dtype: torch.dtype,
    limit: int,
    flag: Tensor,
) -> None:
    """Write a sum or an election of masked deltas to `place`, without waiting for the GPU; see `cuda_sums.write`.

    Args:
        models: Contiguous tensors of one shape on the GPU.
        masks: One per model.
        factors: One per model, None if all are 1.
        election: Votes, shares, and divisors or None, see `Vote`; None for a sum.
        undecided: The sign where votes sum to zero, 0 for neither.
        by_sign: Whether signs vote.
        base: The tensor that is subtracted from the models and added to the result.
        scale: A factor of the sum or the elected value.
        place: The contiguous tensor to write to, of `dtype` or float32.
        dtype: The dtype that results are rounded to.
        limit: The smallest magnitude, as bits of a float32, that is not finite in this dtype.
        flag: An int32, which is set to 1 if a result is not finite.
    """
    rows = [[*mask.integers, *[0] * (_WIDTH.value - len(mask.integers))] for mask in masks]
    integers = torch.tensor(rows, dtype=torch.int64, pin_memory=place.is_cuda)  # copied without waiting
    with torch.cuda.device_of(place):
        _write[(triton.cdiv(place.numel(), BLOCK),)](
            tuple(words(model) for model in models),
            sum(KINDS.index(mask.kind) << (2 * number) for number, mask in enumerate(masks)),
            integers.to(place.device, non_blocking=True),
            tuple(mask.fractions for mask in masks),
            tuple(mask.ranks for mask in masks),
            factors,
            *(election or (None, None, None)),
            undecided,
            by_sign,
            words(base),
            scale,
            words(place),
            flag,
            place.numel(),
            str(dtype).removeprefix("torch."),
            limit,
            BLOCK,
            **EXACTLY,
        )
