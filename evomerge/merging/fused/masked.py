"""Compiled kernels of sums and elections of deltas with dropped elements, whose masks are computed on the way.

Every step is rounded to float32, the result once more; the bits are those of `kernels/` on PyTorch.
Digest of words.py: 549f5d700c514bf2
"""

from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils

from evomerge.merging.fused.words import compiled, inline, load, magnitude, store, value_at

_INT, _LONG, _FLOAT = ir.IntType(32), ir.IntType(64), ir.FloatType()
#: As in `kernels/sparsify.py`.
_STEP, _MULTIPLIERS = 0x9E3779B9, (0x21F0AAAD, 0xD35A2D97)


class Cuts(NamedTuple):
    """Keeps the elements of a row above its threshold, and those equal to it before its end.

    Addresses of a value per row: the bits of a magnitude (int32), and a position in the row (int64).
    """

    thresholds: int
    ends: int


class Middles(NamedTuple):
    """Keeps what the first cut of a row keeps and the second one does not."""

    thresholds: int
    ends: int
    outer_thresholds: int
    outer_ends: int


class AtRandom(NamedTuple):
    """Keeps elements whose random number is below the limit. divisor: of the kept ones, or None."""

    key: Any
    shift: Any
    limit: Any
    divisor: Any


class ByRank(NamedTuple):
    """Keeps an element with the probability lowest + step * rank. smallest: divides it by at least that, or None.

    ranks: address of the ranks less `offset`, kind: an integer of their type.
    """

    ranks: int
    kind: Any
    offset: Any
    step: Any
    lowest: Any
    key: Any
    shift: Any
    smallest: Any


@compiled
def write(
    models: Any, kinds: Any, masks: Any, factors: Any, base: Any, base_kind: Any, election: Any, scale: Any,
    out: Any, place: Any, rounding: Any, length: int, start: int, stop: int,
) -> Any:  # fmt: skip
    """Write elements [start, stop) of base + scale * sum or election of masked deltas times factors, rounded.

    models, base, out: addresses. election: None for a sum, else the arguments of `_elected`. place: kind of `out`.
    length: elements of a row.

    Returns:
        The largest magnitude of a result before it is rounded.
    """
    largest = np.uint32(0)
    begin = start
    while begin < stop:
        row = begin // length
        end = min((row + 1) * length, stop)
        cuts = _cuts_of(masks, row, begin - row * length)
        for index in range(begin, end):
            origin = load(base, index, base_kind)
            deltas = _masked(models, kinds, index, origin, masks, cuts, index - begin, factors)
            if election is None:
                result = _summed(deltas)
            else:
                votes, shares, divisors, undecided, by_sign = election
                result = _elected(deltas, votes, shares, divisors, undecided, by_sign)
            result = result * scale + origin
            largest = max(largest, magnitude(result))
            store(out, index, place, result, rounding)
        begin = end
    return largest


@inline
def _cuts_of(_context: Any, masks: Any, row: Any, place: Any) -> Any:
    """Return four numbers per mask for a row: threshold and end twice, ends relative to a position in the row."""
    result = types.UniTuple(types.int32, 4 * len(masks))

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        given, line, begin = arguments
        found = []
        for number, mask in enumerate(masks):
            fields = cgutils.unpack_tuple(builder, builder.extract_value(given, number))
            addresses = fields if mask.instance_class in (Cuts, Middles) else []
            for thresholds, ends in zip(addresses[::2], addresses[1::2], strict=True):
                found.append(_loaded(builder, thresholds, line, _INT))
                end = builder.sub(_loaded(builder, ends, line, _LONG), begin)
                end = _clamped(builder, end, _LONG(0), _LONG(2**31 - 1))
                found.append(builder.trunc(end, _INT))
            found += [_INT(0)] * (4 - len(addresses))
        return context.make_tuple(builder, result, found)

    return result(masks, row, place), generate


@inline
def _masked(
    _context: Any, models: Any, kinds: Any, index: Any, origin: Any, masks: Any, cuts: Any, place: Any, factors: Any
) -> Any:
    """Return the delta of each model, zero where its mask drops it, times its factor; factors: None if all are 1."""
    result = types.UniTuple(types.float32, len(kinds))

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        addresses, _, here, base, given, limits, within, scales = arguments
        found = []
        for number, (kind, mask) in enumerate(zip(kinds, masks, strict=True)):
            value = value_at(builder, builder.extract_value(addresses, number), here, kind)
            delta = builder.fsub(value, base)
            own = mask.instance_class(*cgutils.unpack_tuple(builder, builder.extract_value(given, number)))
            if mask.instance_class in (Cuts, Middles):
                row = [builder.extract_value(limits, 4 * number + field) for field in range(len(own))]
                delta = _within(builder, delta, builder.trunc(within, _INT), *row)
            elif mask.instance_class is AtRandom:
                kept = builder.icmp_signed("<", _random(builder, here, own.key, own.shift), own.limit)
                delta = builder.select(kept, delta, _FLOAT(0.0))
                if mask.types[3] != types.none:
                    delta = builder.fdiv(delta, own.divisor)
            else:
                delta = _by_rank(builder, delta, here, own, mask.types)
            found.append(delta if factors == types.none else builder.fmul(delta, builder.extract_value(scales, number)))
        return context.make_tuple(builder, result, found)

    return result(models, kinds, index, origin, masks, cuts, place, factors), generate


@inline
def _summed(_context: Any, deltas: Any) -> Any:
    """Return the sum, in the order of the inputs."""

    def generate(_target: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        first, *others = cgutils.unpack_tuple(builder, arguments[0])
        for other in others:
            first = builder.fadd(first, other)
        return first

    return types.float32(deltas), generate


@inline
def _elected(_context: Any, deltas: Any, votes: Any, shares: Any, divisors: Any, undecided: Any, by_sign: Any) -> Any:
    """Return the sum of the deltas times shares with the elected sign; divided by the sum of their divisors, if any.

    votes, shares, divisors: numbers per delta; shares: None if they are the votes. undecided: the sign if votes sum to
    zero, 0 for neither, None for plus. by_sign: None if deltas vote, otherwise their signs do.
    """

    def generate(_target: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        values = cgutils.unpack_tuple(builder, arguments[0])
        zero, neither = _FLOAT(0.0), arguments[4]
        cast = values if by_sign == types.none else [_sign(builder, value) for value in values]
        products = _products(builder, cast, arguments[1])
        vote = zero
        for product in products:
            vote = builder.fadd(vote, product)
        # A sum that begins with zero is never -0.
        minus = builder.and_(builder.bitcast(vote, _INT), _INT(-(2**31)))
        if undecided != types.none:
            tie = builder.fcmp_ordered("==", vote, zero)
            turned = builder.and_(tie, builder.icmp_signed("<", neither, _INT(0)))
            minus = builder.select(turned, _INT(-(2**31)), minus)
        if shares != types.none:
            products = _products(builder, values, arguments[2])
        total = zero
        for product in products:
            agreeing = _flipped(builder, product, minus)
            total = builder.fadd(total, builder.select(builder.fcmp_ordered("<", agreeing, zero), zero, agreeing))
        if divisors != types.none:
            divisor = zero
            for value, counted in zip(values, cgutils.unpack_tuple(builder, arguments[3]), strict=True):
                agrees = builder.fcmp_ordered(">", _flipped(builder, value, minus), zero)
                divisor = builder.fadd(divisor, builder.select(agrees, counted, zero))
            none_agrees = builder.fcmp_ordered("==", divisor, zero)
            total = builder.fdiv(total, builder.select(none_agrees, _FLOAT(1.0), divisor))
        if undecided != types.none:
            nothing = builder.and_(tie, builder.icmp_signed("==", neither, _INT(0)))
            total = builder.fmul(total, builder.select(nothing, zero, _FLOAT(1.0)))
        return _flipped(builder, total, minus)

    return types.float32(deltas, votes, shares, divisors, undecided, by_sign), generate


def _products(builder: Any, values: Any, numbers: Any) -> list[Any]:
    pairs = zip(values, cgutils.unpack_tuple(builder, numbers), strict=True)
    return [builder.fmul(value, number) for value, number in pairs]


def _within(builder: Any, delta: Any, place: Any, *cuts: Any) -> Any:
    """Return a delta at this place if it is in the first cut, less itself if it is in the second one, else zero."""
    bits, zero = builder.and_(builder.bitcast(delta, _INT), _INT(0x7FFFFFFF)), _FLOAT(0.0)

    def inside(threshold: Any, end: Any) -> Any:
        # The threshold is lowered by one before the end, so that magnitudes equal to it are kept there.
        early = builder.zext(builder.icmp_signed("<", place, end), _INT)
        return builder.select(builder.icmp_signed(">", bits, builder.sub(threshold, early)), delta, zero)

    kept = inside(*cuts[:2])
    # NaN and infinity remain: such results are left to PyTorch.
    return builder.fsub(kept, inside(*cuts[2:])) if len(cuts) > 2 else kept


def _random(builder: Any, index: Any, key: Any, shift: Any) -> Any:
    """Return the random number of `kernels/sparsify.py`, u * 2**31 - 2**30."""
    bits = builder.add(builder.mul(builder.trunc(index, _INT), _INT(_STEP)), key)
    bits = builder.mul(builder.xor(bits, builder.lshr(bits, _INT(16))), _INT(_MULTIPLIERS[0]))
    bits = builder.add(builder.xor(bits, builder.lshr(bits, _INT(15))), shift)
    return builder.ashr(builder.mul(bits, _INT(_MULTIPLIERS[1])), _INT(1))


def _by_rank(builder: Any, delta: Any, index: Any, mask: ByRank, fields: Any) -> Any:
    width = ir.IntType(fields[1].bitwidth)
    rank = builder.add(builder.sext(_loaded(builder, mask.ranks, index, width), _INT), mask.offset)
    probability = builder.fadd(builder.fmul(builder.sitofp(rank, _FLOAT), mask.step), mask.lowest)
    limit = builder.fsub(builder.fmul(probability, _FLOAT(2.0**31)), _FLOAT(2.0**30))
    limit = builder.select(builder.fcmp_ordered(">", limit, _FLOAT(2.0**30)), _FLOAT(2.0**30), limit)
    kept = builder.icmp_signed("<", _random(builder, index, mask.key, mask.shift), builder.fptosi(limit, _INT))
    delta = builder.select(kept, delta, _FLOAT(0.0))
    if fields[7] == types.none:
        return delta
    tiny = builder.fcmp_ordered("<", probability, mask.smallest)
    return builder.fdiv(delta, builder.select(tiny, mask.smallest, probability))


def _sign(builder: Any, value: Any) -> Any:
    positive = builder.uitofp(builder.fcmp_ordered(">", value, _FLOAT(0.0)), _FLOAT)
    return builder.fsub(positive, builder.uitofp(builder.fcmp_ordered("<", value, _FLOAT(0.0)), _FLOAT))


def _flipped(builder: Any, value: Any, minus: Any) -> Any:
    return builder.bitcast(builder.xor(builder.bitcast(value, _INT), minus), _FLOAT)


def _clamped(builder: Any, value: Any, low: Any, high: Any) -> Any:
    value = builder.select(builder.icmp_signed("<", value, low), low, value)
    return builder.select(builder.icmp_signed(">", value, high), high, value)


def _loaded(builder: Any, address: Any, index: Any, kind: Any) -> Any:
    start = builder.inttoptr(address, kind.as_pointer())
    return builder.load(builder.gep(start, [index], source_etype=kind), align=1)
