"""Model Breadcrumbs: the middle of a delta (Davari & Belilovsky, 2024). https://arxiv.org/abs/2312.06795."""

from collections.abc import Sequence
from operator import attrgetter
from typing import Annotated, NamedTuple

from torch import Tensor

from evomerge.merging.kernels.combination import combine, normalized, one_model
from evomerge.merging.kernels.middle import Compat, Middle, Rescale, middle, middle_factors
from evomerge.merging.method import SHARE, Bounds, Combination, CopyOf, PerInput, Shared, Sparse, merge_method
from evomerge.merging.tiles import TensorSource, Tile

Weight = Annotated[PerInput, Bounds(1.0, -1.0, 1.5)]
Density = Annotated[PerInput, Bounds(0.5, 0.05, 0.9, allowed=SHARE)]
Gamma = Annotated[PerInput, Bounds(0.01, 0.0, 0.05, allowed=SHARE)]
#: The same direction as scaling all weights, hence not searched.
Scale = Annotated[Shared, Bounds(1.0, 1.0, 1.0)]


class _Prepared(NamedTuple):
    middles: tuple[Middle, ...]
    coefficients: tuple[float, ...]


def _coefficients(
    source: TensorSource,
    *,
    weight: Weight,
    density: Density,
    gamma: Gamma,
    scale: Scale,
    rescale: Rescale = "none",
    normalize: bool = False,
    compat: Compat = "official",
) -> CopyOf | _Prepared:
    weights = [scale * value for value in (normalized(weight) if normalize else weight)]
    middles = middle(source, density, gamma, compat)
    everything = all(found.everything for found in middles) or not any(weights)
    alone = one_model(weights) if everything else None
    if alone is not None:
        return alone
    factors = middle_factors(source, middles, rescale)
    return _Prepared(middles, tuple(value * factor for value, factor in zip(weights, factors, strict=True)))


def _kept(deltas: Sequence[Tensor], *, prepared: _Prepared, tile: Tile) -> list[Tensor]:
    return [found.keep(delta, tile) for found, delta in zip(prepared.middles, deltas, strict=True)]


def _sparse(source: TensorSource, *, prepared: _Prepared) -> Sparse:
    return Sparse([found.mask(source) for found in prepared.middles], prepared.coefficients)


@merge_method(
    operates_on="deltas",
    reference="https://arxiv.org/abs/2312.06795",
    prepare=_coefficients,
    linear_in=("weight", "scale"),
    gradient=Combination(("weight", "scale"), terms=_kept, coefficients=attrgetter("coefficients")),
    fused=_sparse,
)
def breadcrumbs(deltas: Sequence[Tensor], *, prepared: _Prepared, tile: Tile) -> Tensor:
    """Base + scale * sum of weight times each delta's middle: the `density` largest below its `gamma` largest.

    rescale: "mergekit" restores each delta's L1 norm per tensor.
    compat: "official" counts int(n * gamma) and int(n * density) elements in every row; "mergekit" counts in the whole
    tensor, keeps int(n * density) elements even if fewer outliers are then removed, and all at density 1.
    """
    return combine(_kept(deltas, prepared=prepared, tile=tile), prepared.coefficients)
