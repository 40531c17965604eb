"""DARE: drop deltas at random, rescale, and add (Yu et al., 2024). https://arxiv.org/abs/2311.03099."""

from collections.abc import Sequence
from typing import Annotated

from torch import Tensor

from evomerge.merging.kernels.combination import combine, normalized, one_model
from evomerge.merging.kernels.sparsify import Rescale, at_random, drop_at_random, rescale_factors
from evomerge.merging.method import SHARE, Bounds, Combination, CopyOf, PerInput, Shared, Sparse, merge_method
from evomerge.merging.tiles import TensorSource, Tile

Weight = Annotated[PerInput, Bounds(1.0, -1.0, 1.5)]
Density = Annotated[PerInput, Bounds(0.5, 0.05, 1.0, allowed=SHARE)]
#: The same direction as scaling all weights, hence not searched.
Scale = Annotated[Shared, Bounds(1.0, 1.0, 1.0)]


def _coefficients(
    source: TensorSource,
    *,
    weight: Weight,
    density: Density,
    scale: Scale,
    rescale: Rescale = "paper",
    normalize: bool = False,
) -> CopyOf | tuple[float, ...]:
    factors = rescale_factors(source, density, rescale)
    weights = normalized(weight) if normalize else weight
    coefficients = tuple(scale * value * factor for value, factor in zip(weights, factors, strict=True))
    kept_whole = all(value == 1 for value in density) or not any(coefficients)
    return (one_model(coefficients) if kept_whole else None) or coefficients


def _thinned(deltas: Sequence[Tensor], *, density: Density, tile: Tile) -> list[Tensor]:
    return [drop_at_random(delta, tile, index, density[index]) for index, delta in enumerate(deltas)]


def _sparse(source: TensorSource, *, density: Density, prepared: tuple[float, ...]) -> Sparse:
    return Sparse([at_random(source, index, share) for index, share in enumerate(density)], prepared)


@merge_method(
    operates_on="deltas",
    reference="https://arxiv.org/abs/2311.03099",
    prepare=_coefficients,
    linear_in=("weight", "scale"),
    gradient=Combination(("weight", "scale"), terms=_thinned),
    fused=_sparse,
    random=True,
)
def dare_linear(deltas: Sequence[Tensor], *, density: Density, prepared: tuple[float, ...], tile: Tile) -> Tensor:
    """Base + scale * sum of weight times sparsified delta; an element is kept with probability `density`.

    rescale: "paper" divides by the density (unbiased), "mergekit" restores each delta's L1 norm per tensor.
    """
    return combine(_thinned(deltas, density=density, tile=tile), prepared)
