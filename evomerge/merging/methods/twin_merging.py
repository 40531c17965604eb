"""Twin-Merging: shared and exclusive knowledge (Lu et al., 2024), with fixed weights. https://arxiv.org/abs/2406.15479."""

from collections.abc import Iterator, Sequence
from typing import Annotated

import torch
from torch import Tensor

from evomerge.merging.kernels.combination import normalized, sole_input
from evomerge.merging.kernels.remembered import remembered
from evomerge.merging.kernels.spectral import accumulate, compact, is_spectral, spectrum, weighted_sum
from evomerge.merging.method import SHARE, Bounds, Combination, CopyOf, PerInput, Shared, merge_method
from evomerge.merging.tiles import TensorSource

Weight = Annotated[PerInput, Bounds(1.0, 0.0, 1.0)]
#: Other fractions of the rank or another shared model require new decompositions: searched only if a range is given.
Density = Annotated[Shared, Bounds(0.1, 0.1, 0.1, allowed=SHARE)]
Scale = Annotated[Shared, Bounds(0.29, 0.29, 0.29)]


def _coefficients(
    _source: TensorSource, *, weight: Weight, density: Density, normalize: bool = True
) -> CopyOf | tuple[float, ...]:
    coefficients = normalized(weight) if normalize else tuple(weight)
    sole = sole_input(coefficients)
    return coefficients if sole is None or density < 1 else CopyOf(sole)


def _residuals(deltas: Sequence[Tensor], shared: Tensor, rank: int) -> list[tuple[Tensor, ...]]:
    found = (spectrum(deltas[index].sub_(shared), rank) for index in range(len(deltas)))
    return [compact(one.left * one.values, one.right) for one in found]


def _exclusive(
    deltas: Sequence[Tensor], *, density: Density, scale: Scale, exclude: str = "", source: TensorSource
) -> Iterator[Tensor]:
    """Yield the residual of each input."""
    shared = weighted_sum(deltas, [scale] * len(deltas))
    if not is_spectral(source, exclude):
        yield from (deltas[index].sub_(shared) for index in range(len(deltas)))
        return
    for part in _parts(deltas, shared, density, scale, source):
        yield accumulate(torch.zeros_like(shared), part, 1.0)


def _parts(
    deltas: Sequence[Tensor], shared: Tensor, density: float, scale: float, source: TensorSource
) -> list[tuple[Tensor, ...]]:
    # At least one triplet: otherwise nothing would be left of small matrices to weight.
    rank = max(int(density * min(source.shape)), 1) if density else 0
    return remembered(source.cache, "twin_merging", (scale, rank), lambda: _residuals(deltas, shared, rank))


@merge_method(
    operates_on="deltas",
    reference="https://arxiv.org/abs/2406.15479",
    prepare=_coefficients,
    whole=True,
    linear_in=("weight",),
    gradient=Combination(("weight",), terms=_exclusive),
)
def twin_merging(
    deltas: Sequence[Tensor],
    *,
    density: Density,
    scale: Scale,
    exclude: str = "",
    prepared: tuple[float, ...],
    source: TensorSource,
) -> Tensor:
    """Task arithmetic of all inputs, plus the weighted residual of each, truncated to `density` of the rank.

    The paper's router selects the weights per text; here they are fixed. normalize: divide them by
    their sum, as the router does. Non-matrices, and tensors whose names match a pattern of
    `exclude` (comma-separated), keep the full residual. In a search the residuals stay in memory.
    """
    total = weighted_sum(deltas, [scale] * len(deltas))
    if not is_spectral(source, exclude):
        exclusive = weighted_sum(deltas, prepared)
        return exclusive.add_(total.mul_(1 - sum(prepared)))
    for part, coefficient in zip(_parts(deltas, total, density, scale, source), prepared, strict=True):
        accumulate(total, part, coefficient)
    return total
