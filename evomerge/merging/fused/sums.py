"""Compiled kernels of sums of models times coefficients; every step is rounded to float32, the result once more.

Digest of words.py: 5a3d5fe8cb3a24c1
"""

from typing import Any

import numpy as np

from evomerge.merging.fused.words import FLOAT32, add_terms, compiled, load, magnitude, store

#: The number that changes no other one when it is added, not even a negative zero.
_NOTHING = np.float32(-0.0)


@compiled
def write(
    models: Any, coefficients: Any, kinds: Any, base: Any, base_kind: Any, before: Any, out: Any, place: Any,
    rounding: Any, start: int, stop: int,
) -> Any:  # fmt: skip
    """Write elements [start, stop) of base + before + sum of coefficient times delta, rounded.

    models, base, out: addresses of the tensors. base: None for a sum of weights: before + sum of coefficient times
    model. before: address of the sum of earlier models at [start, stop), or None. place: kind of `out`.

    Returns:
        The largest magnitude of a result before it is rounded.
    """
    largest = np.uint32(0)
    for index in range(start, stop):
        total = _NOTHING if before is None else load(before, index - start, FLOAT32)
        if base is None:
            result = add_terms(total, models, coefficients, index, kinds, None)
        else:
            origin = load(base, index, base_kind)
            result = origin + add_terms(total, models, coefficients, index, kinds, origin)
        largest = max(largest, magnitude(result))
        store(out, index, place, result, rounding)
    return largest


@compiled
def add(
    models: Any, coefficients: Any, kinds: Any, base: Any, base_kind: Any, before: Any, start: int, stop: int
) -> None:
    """Add the models' terms at [start, stop) to the float32 values at `before`."""
    for index in range(start, stop):
        total = load(before, index - start, FLOAT32)
        if base is None:
            total = add_terms(total, models, coefficients, index, kinds, None)
        else:
            total = add_terms(total, models, coefficients, index, kinds, load(base, index, base_kind))
        store(before, index - start, FLOAT32, total, FLOAT32)
