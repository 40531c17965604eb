"""Compiled kernels of dot products: a gradient with models or their deltas, all of them in one pass.

Digest of words.py: 5a3d5fe8cb3a24c1
"""

from typing import Any

from evomerge.merging.fused.words import add_products, compiled, load


@compiled
def add_dots(
    sums: Any,
    models: Any,
    kinds: Any,
    base: Any,
    base_kind: Any,
    gradient: Any,
    gradient_kind: Any,
    start: int,
    stop: int,
) -> Any:
    """Return sums + the dot products of a gradient's elements [start, stop) with each model, or its delta.

    sums: a float64 per model. models, base, gradient: addresses of the tensors. base: None for the models themselves.
    """
    for index in range(start, stop):
        factor = load(gradient, index, gradient_kind)
        if base is None:
            sums = add_products(sums, models, index, kinds, None, factor)
        else:
            sums = add_products(sums, models, index, kinds, load(base, index, base_kind), factor)
    return sums
