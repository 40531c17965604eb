"""Triton's kernel of dot products: a gradient with models or their deltas, all of them in one pass."""

# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from evomerge.merging.fused.cuda_words import BLOCK, EXACTLY, compiled, load, words


@compiled
def _add(models, base, gradient, sums, size, block: tl.constexpr):
    """Write the dot products of a block to sums, (n_models, n_blocks), in float64, where a product is exact."""
    number_of_block = tl.program_id(0)
    place = number_of_block.to(tl.int64) * block + tl.arange(0, block)
    inside = place < size
    factor = load(gradient, place, inside).to(tl.float64)
    origin = None if base is None else load(base, place, inside)
    for number in tl.static_range(len(models)):
        value = load(models[number], place, inside)
        if origin is not None:
            value = value - origin
        product = tl.sum(value.to(tl.float64) * factor, axis=0)
        tl.store(sums + number * tl.num_programs(0) + number_of_block, product)


def dots(models: Sequence[Tensor], base: Tensor | None, gradient: Tensor) -> list[float]:
    """Return the dot product of a gradient with each model, or each delta; see `model_dots`.

    Blocks are summed on their own and then in order, so that the same GPU gives the same result again.
    """
    blocks = triton.cdiv(gradient.numel(), BLOCK)
    sums = torch.zeros((len(models), blocks), dtype=torch.float64, device=gradient.device)
    if blocks:
        with torch.cuda.device_of(gradient):
            _add[(blocks,)](
                tuple(words(model) for model in models),
                None if base is None else words(base),
                words(gradient),
                sums,
                gradient.numel(),
                BLOCK,
                **EXACTLY,
            )
    found: list[float] = sums.sum(dim=1).tolist()
    return found
