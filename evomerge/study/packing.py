"""Arrays of numbers as short texts, without loss: of the same bits, and written and read in microseconds.

A text is the name of a format, a colon and base64 (RFC 4648) of the bytes. `bitsN`: N zeros and ones, eight to a byte,
the first one in the highest bit. `f32`, `f64`: little-endian IEEE 754 numbers.
"""

from base64 import b64encode
from binascii import a2b_base64
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

_FLOATS = {"f32": "<f4", "f64": "<f8"}
_F64: np.dtype[np.float64] = np.dtype("<f8")
_ONE = np.float64(1.0).view(np.uint64)


def packed(values: FloatArray) -> str:
    """Return a text for float64 values, (n,), in the shortest format that keeps every bit."""
    patterns = np.ascontiguousarray(values, dtype=np.float64).view(np.uint64)
    ones = patterns == _ONE
    if (ones | (patterns == 0)).all():
        return f"bits{len(ones)}:{b64encode(np.packbits(ones).tobytes()).decode()}"
    with np.errstate(over="ignore"):
        short = values.astype("<f4")
    exact = short.astype(np.float64).tobytes() == patterns.tobytes()
    return f"f32:{_text(short)}" if exact else f"f64:{_text(values)}"


def rounded(values: FloatArray) -> str:
    """Return a text for values, (n,), rounded to float32."""
    with np.errstate(over="ignore"):
        return f"f32:{_text(values.astype('<f4'))}"


def unpacked(text: str | Sequence[Any]) -> FloatArray:
    """Return the values, (n,), read-only.

    Lists are read too, as ledgers before schema 3 have them: `None` is NaN, and infinities are texts.
    """
    if not isinstance(text, str):
        array = np.array(text, dtype=np.float64)
    elif text.startswith("f64:"):
        return np.frombuffer(a2b_base64(text[4:]), _F64)  # read-only, as bytes are
    elif text.startswith("bits"):
        size, _, bits = text[4:].partition(":")
        octets = np.frombuffer(a2b_base64(bits), dtype=np.uint8)
        if not 0 <= int(size) <= 8 * len(octets):  # numpy would append as many zeros as a damaged text asks for
            raise ValueError(f"{size} bits were announced, and there are {8 * len(octets)}")
        array = np.unpackbits(octets, count=int(size)).astype(np.float64)
    else:
        array = np.frombuffer(a2b_base64(text[4:]), dtype=_FLOATS[text[:3]]).astype(np.float64)
    array.flags.writeable = False
    return array


def _text(values: NDArray[Any]) -> str:
    return b64encode(values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()).decode()
