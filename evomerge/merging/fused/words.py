"""Floating-point values in memory as compiled kernels read and write them: bfloat16, float16 and float32.

A kernel gets addresses, and for each a kind: a scalar whose type says how values are stored there, since Numba has no
bfloat16 and no float16 on the CPU. Arithmetic is in float32 and is never fused or reordered.

Numba recompiles a kernel when its own file has changed, not when this one has: kernels' files name its digest.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

Function = TypeVar("Function", bound=Callable[..., Any])

#: Kinds: bits of a bfloat16, bits of a float16, a float32.
BFLOAT16, FLOAT16, FLOAT32 = np.uint16(0), np.int16(0), np.float32(0)

#: Kinds of the bfloat16s in a word of 32 bits that a kernel has loaded: the one in its lower half, and the other one.
EVEN, ODD = np.int8(0), np.uint8(0)

_WORDS = {types.uint16: ir.IntType(16), types.int16: ir.IntType(16), types.float32: ir.FloatType()}
_BITS = ir.IntType(32)


def compiled(function: Function) -> Function:
    """Compile a kernel on first use: outside the interpreter lock, cached on disk where a folder can be written."""
    settings = {"nogil": True, "error_model": "numpy"}
    try:
        kernel: Function = numba.njit(cache=True, **settings)(function)
    except RuntimeError:  # neither the installation nor the user's cache can be written
        kernel = numba.njit(**settings)(function)
    return kernel


def part(function: Function) -> Function:
    """Declare a function that kernels are made of."""
    made: Function = numba.njit(error_model="numpy")(function)
    return made


def inline(function: Callable[..., Any]) -> Callable[..., Any]:
    """Declare a function of kernels that returns its type and the generator of its instructions."""
    made: Callable[..., Any] = intrinsic(function)
    return made


@inline
def load(_context: Any, address: Any, index: Any, kind: Any) -> Any:
    """Return the value at a position as float32."""

    def generate(_target: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return value_at(builder, arguments[0], arguments[1], kind)

    return types.float32(address, index, kind), generate


@inline
def store(_context: Any, address: Any, index: Any, kind: Any, value: Any, rounding: Any) -> Any:
    """Round a float32 to the kind `rounding`, to nearest and ties to even, and write it; `kind` is the same or float32.

    Values that are not finite, before or after rounding, give arbitrary bits: see `largest`.
    """

    def generate(_target: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        word = _narrowed(builder, arguments[3], rounding)
        if kind != rounding:
            word = _widened(builder, word, rounding)
        builder.store(word, _pointer(builder, arguments, kind), align=1)
        return _target.get_dummy_value()

    return types.void(address, index, kind, value, rounding), generate


@inline
def load_pairs(_context: Any, addresses: Any, index: Any) -> Any:
    """Return a word per address with the bfloat16s at an index and at the next one; see EVEN and ODD."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        words = []
        for address in cgutils.unpack_tuple(builder, arguments[0]):
            place = builder.bitcast(_pointer(builder, (address, arguments[1]), types.uint16), _BITS.as_pointer())
            words.append(builder.load(place, align=1, typ=_BITS))
        return context.make_tuple(builder, signature.return_type, words)

    return types.UniTuple(types.uint32, len(addresses))(addresses, index), generate


@inline
def store_pair(_context: Any, address: Any, index: Any, even: Any, odd: Any) -> Any:
    """Write two values as bfloat16s to an index and the next one, see `store`."""

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        low, high = (_rounded(builder, value) for value in arguments[2:])
        word = builder.or_(builder.lshr(low, _BITS(16)), builder.and_(high, _BITS(0xFFFF0000)))
        place = builder.bitcast(_pointer(builder, arguments, types.uint16), _BITS.as_pointer())
        builder.store(word, place, align=1)
        return context.get_dummy_value()

    return types.void(address, index, even, odd), generate


@inline
def magnitude(_context: Any, value: Any) -> Any:
    """Return the bits of a float32 without its sign, which order as its absolute value does, NaN last."""

    def generate(_target: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.and_(builder.bitcast(arguments[0], _BITS), _BITS(0x7FFFFFFF))

    return types.uint32(value), generate


@inline
def add_terms(_context: Any, total: Any, models: Any, coefficients: Any, index: Any, kinds: Any, origin: Any) -> Any:
    """Return total + (model - origin) * coefficient + ..., rounded after each step, in the order of the models.

    models, coefficients, kinds: tuples of one length. origin: a float32, or None to multiply the models themselves.
    """

    def generate(_target: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        result, addresses, factors, place, _, subtracted = arguments
        for number, kind in enumerate(kinds):
            address = builder.extract_value(addresses, number)
            value = value_at(builder, address, place, kind)
            if not isinstance(origin, types.NoneType):
                value = builder.fsub(value, subtracted)
            result = builder.fadd(result, builder.fmul(value, builder.extract_value(factors, number)))
        return result

    return types.float32(total, models, coefficients, index, kinds, origin), generate


@inline
def add_products(_context: Any, sums: Any, models: Any, index: Any, kinds: Any, origin: Any, factor: Any) -> Any:
    """Return sums + (model - origin) * factor, one sum per model, in float64, where such a product is exact.

    The additions may be reordered, into vectors. sums, models, kinds: tuples of one length. origin: a float32, or None
    to multiply the models themselves. factor: a float32.
    """

    def generate(_target: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        result, addresses, place, _, subtracted, weight = arguments
        weight = builder.fpext(weight, ir.DoubleType())
        for number, kind in enumerate(kinds):
            address = builder.extract_value(addresses, number)
            value = value_at(builder, address, place, kind)
            if not isinstance(origin, types.NoneType):
                value = builder.fsub(value, subtracted)
            product = builder.fmul(builder.fpext(value, ir.DoubleType()), weight)
            sum_of_one = builder.fadd(builder.extract_value(result, number), product, flags=("reassoc",))
            result = builder.insert_value(result, sum_of_one, number)
        return result

    return sums(sums, models, index, kinds, origin, factor), generate


def value_at(builder: Any, address: Any, index: Any, kind: Any) -> Any:
    """Generate the instructions that load the value at a position as float32; those in words have been loaded."""
    if kind == types.int8:
        return builder.bitcast(builder.shl(address, _BITS(16)), ir.FloatType())
    if kind == types.uint8:
        return builder.bitcast(builder.and_(address, _BITS(0xFFFF0000)), ir.FloatType())
    return _widened(builder, builder.load(_pointer(builder, (address, index), kind), align=1), kind)


def _pointer(builder: Any, arguments: Any, kind: Any) -> Any:
    start = builder.inttoptr(arguments[0], _WORDS[kind].as_pointer())
    return builder.gep(start, [arguments[1]], source_etype=_WORDS[kind])


def _widened(builder: Any, word: Any, kind: Any) -> Any:
    if kind == types.float32:
        return word
    if kind == types.int16:
        return builder.fpext(builder.bitcast(word, ir.HalfType()), ir.FloatType())
    return builder.bitcast(builder.shl(builder.zext(word, _BITS), _BITS(16)), ir.FloatType())


def _narrowed(builder: Any, value: Any, kind: Any) -> Any:
    if kind == types.float32:
        return value
    if kind == types.int16:
        return builder.bitcast(builder.fptrunc(value, ir.HalfType()), ir.IntType(16))
    return builder.trunc(builder.lshr(_rounded(builder, value), _BITS(16)), ir.IntType(16))


def _rounded(builder: Any, value: Any) -> Any:
    """Return bits whose upper half is the nearest bfloat16, ties to even."""
    bits = builder.bitcast(value, _BITS)
    odd = builder.and_(builder.lshr(bits, _BITS(16)), _BITS(1))
    return builder.add(builder.add(bits, _BITS(0x7FFF)), odd)
