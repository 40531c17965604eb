"""NuSLERP (mergekit, 2024): slerp of two models or deltas by weight. https://github.com/arcee-ai/mergekit."""

from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from evomerge.merging.kernels.combination import sum_of
from evomerge.merging.kernels.gram import FloatArray, Of, cosines, gram, line_grams
from evomerge.merging.kernels.lines import Lines
from evomerge.merging.method import BASE, Bounds, Combination, CopyOf, PerInput, SumOf, merge_method
from evomerge.merging.tiles import TensorSource, Tile

Weight = Annotated[PerInput, Bounds(1.0, 0.0, 1.0)]
#: Weights whose sum is smaller than this meet halfway.
_CANCELLED = 1e-6
#: Below this sine an arc equals its chord in float32; between opposite models there is no shortest arc.
_COLINEAR = 1e-4
#: Vectors shorter than this count as zero.
_SHORT = 1e-7


class _PerLine(NamedTuple):
    lines: Lines
    factors: tuple[Tensor, ...]


Prepared = SumOf | _PerLine


def _coefficients(
    source: TensorSource, *, weight: Weight, relative_to_base: bool = False, flatten: bool = True, row_wise: bool = True
) -> CopyOf | Prepared:
    if source.identical:
        return CopyOf(BASE)
    total = sum(weight)
    t = weight[1] / total if abs(total) >= _CANCELLED else 0.5
    if t in (0, 1):
        return CopyOf(int(t))
    of: Of = "deltas" if relative_to_base else "weights"
    if flatten:
        coefficients = tuple(_arc(gram(source, of), t).tolist())
        return SumOf(coefficients, "deltas" if relative_to_base else "operands")
    lines = Lines.of(source.shape, "row" if row_wise else "column")
    factors = torch.from_numpy(_arc(line_grams(source, of, lines), t)).to(source.device, torch.float32)
    return _PerLine(lines, tuple(factors))


def _arc(products: FloatArray, t: float) -> FloatArray:
    """Return the coefficients (2, ...) of the two vectors at fraction t of the arc, from Gram matrices (..., 2, 2)."""
    angle = np.arccos(cosines(products, _SHORT**2)[..., 0, 1])
    curved = np.sin(angle) >= _COLINEAR
    sine = np.where(curved, np.sin(angle), 1.0)
    return np.stack([np.where(curved, np.sin(share * angle) / sine, share) for share in (1 - t, t)])


def _unless(*, flatten: bool, **_options: Any) -> str | None:
    return None if flatten else "has no gradient with an angle for every row or column (flatten: false)"


@merge_method(
    operates_on="weights",
    reference="https://github.com/arcee-ai/mergekit",
    prepare=_coefficients,
    gradient=Combination(("weight",), unless=_unless),
    min_inputs=2,
    max_inputs=2,
)
def nuslerp(
    weights: Sequence[Tensor], *, base: Tensor, relative_to_base: bool = False, prepared: Prepared, tile: Tile
) -> Tensor:
    """Spherical interpolation of two models, or of their deltas (relative_to_base), by the ratio of their weights.

    flatten: one angle per tensor; otherwise one per row (last dimension), or with row_wise false per column (first).

    compat: mergekit's `nuslerp_row_wise: true` means columns, `row_wise: false` here, and with a base model it always
    means `relative_to_base: true`. Opposite models are interpolated linearly; mergekit gives rounding noise there.
    """
    if isinstance(prepared, SumOf):
        return sum_of(weights, base, prepared)
    lines, factors = prepared
    models = [model.sub_(base) for model in weights] if relative_to_base else weights
    merged = lines.scale(models[0], factors[0], tile).add_(lines.scale(models[1], factors[1], tile))
    return merged.add_(base) if relative_to_base else merged
