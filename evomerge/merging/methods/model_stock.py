"""Model Stock (Jang et al., 2024): interpolation toward the mean by the deltas' angle. https://arxiv.org/abs/2403.19522."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from torch import Tensor

from evomerge.merging.kernels.combination import combine
from evomerge.merging.kernels.gram import FloatArray, cosines, gram, line_grams
from evomerge.merging.kernels.lines import Lines
from evomerge.merging.method import BASE, Bounds, CopyOf, Shared, SumOf, merge_method
from evomerge.merging.tiles import TensorSource, Tile

Compat = Literal["paper", "mergekit"]
#: Smallest product of two lengths in mergekit's cosine.
_SHORT = 1e-6
#: Closer to zero than this, the ratio's denominator is meaningless.
_SINGULAR = 1e-6


@dataclass(frozen=True)
class _PerRow:
    lines: Lines
    ratios: Tensor


def _ratio(
    source: TensorSource,
    *,
    scale: Annotated[Shared, Bounds(1.0, 0.0, 1.5)],
    filter_wise: bool = False,
    clamp: bool = True,
    compat: Compat = "paper",
) -> CopyOf | SumOf | _PerRow:
    if not filter_wise:
        ratio = scale * float(_stock(gram(source, "deltas"), clamp, compat))
        n_inputs = len(source.input_names)
        return SumOf((ratio / n_inputs,) * n_inputs) if ratio else CopyOf(BASE)
    lines = Lines.of(source.shape, "row")
    ratios = scale * _stock(line_grams(source, "deltas", lines), clamp, compat)
    return _PerRow(lines, torch.from_numpy(ratios).to(source.device, torch.float32))


def _stock(products: FloatArray, clamp: bool, compat: Compat) -> FloatArray:
    """Return the fraction of the way from the base to the mean, (...), from Gram matrices of the deltas (..., n, n)."""
    n = products.shape[-1]
    pairs = cosines(products, _SHORT if compat == "mergekit" else 0.0)[..., *np.triu_indices(n, 1)]
    cosine = pairs.mean(-1) if compat == "mergekit" else np.cos(np.arccos(pairs).mean(-1))
    # Right angles: the cosine of the arccosine of 0 is 6e-17.
    cosine = np.where(np.abs(cosine) < 1e-15, 0.0, cosine)
    if clamp:
        cosine = np.maximum(cosine, 0.0)
    divisor = 1 + (n - 1) * cosine
    singular = np.abs(divisor) < _SINGULAR
    return np.where(singular, 0.0, n * cosine / np.where(singular, 1.0, divisor))


@merge_method(
    operates_on="deltas",
    reference="https://arxiv.org/abs/2403.19522",
    prepare=_ratio,
    min_inputs=2,
    linear_in=("scale",),
)
def model_stock(deltas: Sequence[Tensor], *, prepared: SumOf | _PerRow, tile: Tile) -> Tensor:
    """Base + scale * t * mean delta, t = n cos / (1 + (n - 1) cos) from the angle between the n deltas of a tensor.

    filter_wise: an angle per row instead. clamp: restrict t to [0, 1], so that opposing deltas give the base.

    compat: "paper" takes the cosine of the mean angle, "mergekit" the mean of the cosines, in which a product of
    lengths below 1e-6 counts as 1e-6. mergekit never clamps: `clamp: false`.
    """
    if isinstance(prepared, SumOf):
        return combine(deltas, prepared.coefficients)
    mean = combine(deltas, [1.0 / len(deltas)] * len(deltas))
    return prepared.lines.scale(mean, prepared.ratios, tile)
