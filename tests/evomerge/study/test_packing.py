"""Packed numbers keep every bit, in few bytes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.study.packing import packed, rounded, unpacked

NUMBERS = (0.0, 1.0, -0.0, 0.5, 1 / 3, 1e300, 5e-324, np.nan, np.inf, -np.inf)


@given(st.lists(st.one_of(st.sampled_from(NUMBERS), st.floats(width=32), st.floats()), max_size=20))
def test_every_bit_comes_back(values: list[float]) -> None:
    array = np.array(values, dtype=np.float64)
    found = unpacked(packed(array))
    assert (found.tobytes(), found.flags.writeable) == (array.tobytes(), False)


@pytest.mark.parametrize(
    ("values", "kind", "size"),
    [([1.0, 0.0] * 500, "bits1000", 177), ([0.5] * 1000, "f32", 5340), ([0.1] * 1000, "f64", 10672)],
)
def test_the_shortest_exact_format_is_used(values: list[float], kind: str, size: int) -> None:
    text = packed(np.array(values))
    assert (text.partition(":")[0], len(text)) == (kind, size)


def test_formats_are_those_of_the_grammar() -> None:
    """Eight zeros and ones to a byte, the first in the highest bit; little-endian floats."""
    assert packed(np.array([1.0, 0, 0, 0, 0, 0, 0, 0, 1])) == "bits9:gIA="
    assert packed(np.array([0.5, 2.0])) == "f32:AAAAPwAAAEA="
    assert packed(np.array([0.1])) == "f64:mpmZmZmZuT8="


def test_rounded_numbers_are_the_nearest_of_float32() -> None:
    values = np.array([-1 / 3, -1e300, np.nan, -123.456789])
    with np.errstate(over="ignore"):
        expected = values.astype(np.float32).astype(np.float64)
    np.testing.assert_array_equal(unpacked(rounded(values)), expected)


def test_lists_of_earlier_schemas_are_read() -> None:
    np.testing.assert_array_equal(unpacked([0.1, None, "inf", "-inf"]), [0.1, np.nan, np.inf, -np.inf])
