"""Compiled kernels of sums and elections of deltas with dropped elements, whose masks are computed on the way.

Every step is rounded to float32, the result once more; the bits are those of `kernels/` on PyTorch.
Digest of words.py: 5a3d5fe8cb3a24c1
"""

from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils

from evomerge.merging.fused.words import (
    EVEN,
    ODD,
    compiled,
    inline,
    load,
    load_pairs,
    magnitude,
    part,
    store,
    store_pair,
    value_at,
)

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

    models, base, out: addresses. election: None for a sum, else the arguments of `_elected`. scale: None for 1.
    place: kind of `out`. length: elements of a row.

    Returns:
        The largest magnitude of a result before it is rounded.
    """
    largest = np.uint32(0)
    begin = start
    while begin < stop:
        row = begin // length
        end = min((row + 1) * length, stop)
        cuts = _cuts_of(masks, row, begin - row * length)
        counter = np.uint32(begin * _STEP)
        for index in range(begin, end):
            origin = load(base, index, base_kind)
            limits = _limits_at(masks, cuts, index - begin)
            deltas = _masked(models, kinds, index, counter, origin, masks, limits, factors)
            result = _merged(origin, deltas, election, scale)
            largest = max(largest, magnitude(result))
            store(out, index, place, result, rounding)
            counter = np.uint32(counter + _STEP)
        begin = end
    return largest


@compiled
def write_pairs(
    models: Any, evens: Any, odds: Any, masks: Any, factors: Any, base: Any, election: Any, scale: Any,
    out: Any, start: int, stop: int,
) -> Any:  # fmt: skip
    """Write elements as `write` does where all tensors are bfloat16 and masks have a single row; start, stop: even.

    Two neighbors are read and written as one word, which saves half of the conversions, and the places at which cuts
    end divide the elements into segments, in which thresholds are constant. evens, odds: the kinds EVEN and ODD of
    each model.
    """
    largest = np.uint32(0)
    begin = start
    while begin < stop:
        end, even_limits, odd_limits = _segment(masks, begin, stop)
        counter = np.uint32(begin * _STEP)
        for pair in range((end - begin) // 2):
            index = begin + 2 * pair
            words, origins = load_pairs(models, index), load_pairs((base,), index)
            origin = load(origins[0], 0, EVEN)
            deltas = _masked(words, evens, index, counter, origin, masks, even_limits, factors)
            even = _merged(origin, deltas, election, scale)
            origin = load(origins[0], 0, ODD)
            deltas = _masked(words, odds, index + 1, np.uint32(counter + _STEP), origin, masks, odd_limits, factors)
            odd = _merged(origin, deltas, election, scale)
            largest = max(largest, max(magnitude(even), magnitude(odd)))
            store_pair(out, index, even, odd)
            counter = np.uint32(counter + 2 * _STEP)
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
            cuts = _loaded_cuts(builder, builder.extract_value(given, number), mask, line)
            for threshold, end in cuts:
                end = _clamped(builder, builder.sub(end, begin), _LONG(0), _LONG(2**31 - 1))
                found += [threshold, builder.trunc(end, _INT)]
            found += [_INT(0)] * (4 - 2 * len(cuts))
        return context.make_tuple(builder, result, found)

    return result(masks, row, place), generate


@inline
def _limits_at(_context: Any, masks: Any, cuts: Any, place: Any) -> Any:
    """Return two numbers per mask: the magnitudes that an element at this place of the row must exceed, and may not."""
    result = types.UniTuple(types.int32, 2 * len(masks))

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        _, given, here = arguments
        within = builder.trunc(here, _INT)
        found = []
        for number in range(0, 4 * len(masks), 2):
            threshold, end = (builder.extract_value(given, number + field) for field in range(2))
            found.append(_limit(builder, threshold, builder.icmp_signed("<", within, end)))
        return context.make_tuple(builder, result, found)

    return result(masks, cuts, place), generate


@inline
def _segment(_context: Any, masks: Any, begin: Any, stop: Any) -> Any:
    """Return where the limits of a single row change next, and those of even and odd places until there.

    Limits are two numbers per mask, as those of `_limits_at`. All places are even, so that the pair in which a cut
    ends at an odd place is a segment of its own.
    """
    limits = types.UniTuple(types.int32, 2 * len(masks))
    result = types.Tuple((types.int64, limits, limits))

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        given, first, last = arguments
        second = builder.add(first, _LONG(1))
        evens, odds = [], []
        for number, mask in enumerate(masks):
            cuts = _loaded_cuts(builder, builder.extract_value(given, number), mask, _LONG(0))
            for threshold, end in cuts:
                even, odd = (builder.icmp_signed("<", place, end) for place in (first, second))
                evens.append(_limit(builder, threshold, even))
                odds.append(_limit(builder, threshold, odd))
                changes = builder.select(odd, builder.and_(end, _LONG(-2)), builder.add(second, _LONG(1)))
                sooner = builder.and_(even, builder.icmp_signed("<", changes, last))
                last = builder.select(sooner, changes, last)
            evens += [_INT(0)] * (2 - len(cuts))
            odds += [_INT(0)] * (2 - len(cuts))
        made = [context.make_tuple(builder, limits, numbers) for numbers in (evens, odds)]
        return context.make_tuple(builder, result, [last, *made])

    return result(masks, begin, stop), generate


def _loaded_cuts(builder: Any, mask: Any, kind: Any, row: Any) -> list[tuple[Any, Any]]:
    """Generate the instructions that load threshold and end of each cut of a mask in a row; none for other masks."""
    if kind.instance_class not in (Cuts, Middles):
        return []
    fields = cgutils.unpack_tuple(builder, mask)
    pairs = zip(fields[::2], fields[1::2], strict=True)
    return [(_loaded(builder, threshold, row, _INT), _loaded(builder, end, row, _LONG)) for threshold, end in pairs]


def _limit(builder: Any, threshold: Any, early: Any) -> Any:
    """Return the threshold, lowered by one before the end of a cut, so that magnitudes equal to it are kept there."""
    return builder.sub(threshold, builder.zext(early, _INT))


@inline
def _masked(
    _context: Any, models: Any, kinds: Any, index: Any, counter: Any, origin: Any, masks: Any, limits: Any, factors: Any
) -> Any:
    """Return the delta of each model, zero where its mask drops it, times its factor; factors: None if all are 1."""
    result = types.UniTuple(types.float32, len(kinds))

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        addresses, _, here, step, base, given, bounds, scales = arguments
        found = []
        for number, (kind, mask) in enumerate(zip(kinds, masks, strict=True)):
            value = value_at(builder, builder.extract_value(addresses, number), here, kind)
            delta = builder.fsub(value, base)
            own = mask.instance_class(*cgutils.unpack_tuple(builder, builder.extract_value(given, number)))
            if mask.instance_class in (Cuts, Middles):
                both = [builder.extract_value(bounds, 2 * number + field) for field in range(2)]
                delta = _within(builder, delta, *both[: len(own) // 2])
            elif mask.instance_class is AtRandom:
                kept = builder.icmp_signed("<", _random(builder, step, own.key, own.shift), own.limit)
                delta = builder.select(kept, delta, _FLOAT(0.0))
                if mask.types[3] != types.none:
                    delta = builder.fdiv(delta, own.divisor)
            else:
                delta = _by_rank(builder, delta, here, step, own, mask.types)
            found.append(delta if factors == types.none else builder.fmul(delta, builder.extract_value(scales, number)))
        return context.make_tuple(builder, result, found)

    return result(models, kinds, index, counter, origin, masks, limits, factors), generate


@part
def _merged(origin: Any, deltas: Any, election: Any, scale: Any) -> Any:
    """Return origin + scale * sum or election of deltas."""
    if election is None:
        result = _summed(deltas)
    else:
        votes, shares, divisors, floor, undecided, by_sign = election
        result = _elected(deltas, votes, shares, divisors, floor, undecided, by_sign)
    return result + origin if scale is None else result * scale + origin


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
def _elected(
    _context: Any, deltas: Any, votes: Any, shares: Any, divisors: Any, floor: Any, undecided: Any, by_sign: Any
) -> Any:
    """Return the sum of the deltas times shares with the elected sign; divided by the sum of their divisors, if any.

    votes, shares, divisors: numbers per delta, none below zero; shares: None if they are the votes. floor: the smallest
    positive divisor, which keeps zero from being divided by zero. undecided: the sign if votes sum to zero, 0 for
    neither, None for plus. by_sign: None if deltas vote, otherwise their signs do.
    """

    def generate(_target: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        values = cgutils.unpack_tuple(builder, arguments[0])
        zero, smallest, neither = _FLOAT(0.0), arguments[4], arguments[5]
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
        if divisors == types.none:
            for product in products:
                turned = _flipped(builder, product, minus)
                total = builder.fadd(total, builder.select(builder.fcmp_ordered("<", turned, zero), zero, turned))
        else:
            # NaN agrees, since it must not get lost.
            agreeing = [builder.fcmp_unordered(">", _flipped(builder, value, minus), zero) for value in values]
            divisor = zero
            for agrees, product, counted in zip(
                agreeing, products, cgutils.unpack_tuple(builder, arguments[3]), strict=True
            ):
                total = builder.fadd(total, builder.select(agrees, product, zero))
                divisor = builder.fadd(divisor, builder.select(agrees, counted, zero))
            none_agrees = builder.fcmp_ordered("<", divisor, smallest)
            total = builder.fdiv(total, builder.select(none_agrees, smallest, divisor))
        if undecided != types.none:
            nothing = builder.and_(tie, builder.icmp_signed("==", neither, _INT(0)))
            total = builder.fmul(total, builder.select(nothing, zero, _FLOAT(1.0)))
        # Without divisors the sum is not negative, with them it has the elected sign unless it is zero.
        return builder.bitcast(builder.or_(builder.bitcast(total, _INT), minus), _FLOAT)

    return types.float32(deltas, votes, shares, divisors, floor, undecided, by_sign), generate


def _products(builder: Any, values: Any, numbers: Any) -> list[Any]:
    pairs = zip(values, cgutils.unpack_tuple(builder, numbers), strict=True)
    return [builder.fmul(value, number) for value, number in pairs]


def _within(builder: Any, delta: Any, limit: Any, outer: Any = None) -> Any:
    """Return a delta whose magnitude is above the limit, less itself if it is above the outer one too, else zero."""
    bits, zero = builder.and_(builder.bitcast(delta, _INT), _INT(0x7FFFFFFF)), _FLOAT(0.0)
    kept = builder.select(builder.icmp_signed(">", bits, limit), delta, zero)
    if outer is None:
        return kept
    # NaN and infinity remain: such results are left to PyTorch.
    return builder.fsub(kept, builder.select(builder.icmp_signed(">", bits, outer), delta, zero))


def _random(builder: Any, counter: Any, key: Any, shift: Any) -> Any:
    """Return the random number of `kernels/sparsify.py`, u * 2**31 - 2**30."""
    bits = builder.add(counter, key)
    bits = builder.mul(builder.xor(bits, builder.lshr(bits, _INT(16))), _INT(_MULTIPLIERS[0]))
    bits = builder.add(builder.xor(bits, builder.lshr(bits, _INT(15))), shift)
    return builder.ashr(builder.mul(bits, _INT(_MULTIPLIERS[1])), _INT(1))


def _by_rank(builder: Any, delta: Any, index: Any, counter: Any, mask: ByRank, fields: Any) -> Any:
    width = ir.IntType(fields[1].bitwidth)
    rank = builder.add(builder.sext(_loaded(builder, mask.ranks, index, width), _INT), mask.offset)
    probability = builder.fadd(builder.fmul(builder.sitofp(rank, _FLOAT), mask.step), mask.lowest)
    limit = builder.fsub(builder.fmul(probability, _FLOAT(2.0**31)), _FLOAT(2.0**30))
    limit = builder.select(builder.fcmp_ordered(">", limit, _FLOAT(2.0**30)), _FLOAT(2.0**30), limit)
    kept = builder.icmp_signed("<", _random(builder, counter, mask.key, mask.shift), builder.fptosi(limit, _INT))
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
