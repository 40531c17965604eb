"""Model Breadcrumbs (Davari & Belilovsky, 2024) with the sign election of TIES. https://arxiv.org/abs/2312.06795."""

from collections.abc import Sequence
from typing import Annotated, NamedTuple

from torch import Tensor

from evomerge.merging.kernels.combination import one_model
from evomerge.merging.kernels.consensus import ElectionSlopes, elect, elect_slopes, elected
from evomerge.merging.kernels.middle import Compat, Middle, Rescale, middle, middle_factors
from evomerge.merging.method import BASE, SHARE, Bounds, Contraction, CopyOf, PerInput, Shared, Sparse, merge_method
from evomerge.merging.tiles import TensorSource, Tile

Weight = Annotated[PerInput, Bounds(1.0, 0.0, 1.0)]
Density = Annotated[PerInput, Bounds(0.5, 0.05, 0.9, allowed=SHARE)]
Gamma = Annotated[PerInput, Bounds(0.01, 0.0, 0.05, allowed=SHARE)]
#: The same direction as scaling all weights unless they are normalized, hence not searched.
Scale = Annotated[Shared, Bounds(1.0, 1.0, 1.0)]


class _Prepared(NamedTuple):
    middles: tuple[Middle, ...]
    factors: tuple[float, ...]


def _middles(
    source: TensorSource,
    *,
    weight: Weight,
    density: Density,
    gamma: Gamma,
    scale: Scale,
    rescale: Rescale = "none",
    compat: Compat = "official",
) -> CopyOf | _Prepared:
    if scale == 0 or not any(weight):
        return CopyOf(BASE)
    middles = middle(source, density, gamma, compat)
    everything = all(found.everything for found in middles) and scale == 1
    alone = one_model(weight) if everything else None
    return alone or _Prepared(middles, middle_factors(source, middles, rescale))


def _kept(deltas: Sequence[Tensor], prepared: _Prepared, tile: Tile) -> list[Tensor]:
    return [found.keep(delta, tile).mul_(factor) for found, factor, delta in zip(*prepared, deltas, strict=True)]


def _sparse(
    source: TensorSource, *, weight: Weight, scale: Scale, normalize: bool = False, prepared: _Prepared
) -> Sparse:
    masks = [found.mask(source) for found in prepared.middles]
    return elected(masks, prepared.factors, weight, normalize=normalize, scale=scale)


def _slopes(
    deltas: Sequence[Tensor],
    gradient: Tensor,
    *,
    weight: Weight,
    scale: Scale,
    normalize: bool = False,
    prepared: _Prepared,
    tile: Tile,
) -> ElectionSlopes:
    kept = _kept(deltas, prepared, tile)
    return elect_slopes(kept, weight, gradient, tile, normalize=normalize, scale=scale)


@merge_method(
    operates_on="deltas",
    reference="https://arxiv.org/abs/2312.06795",
    prepare=_middles,
    linear_in=("scale",),
    gradient=Contraction(("weight", "scale"), _slopes),
    fused=_sparse,
)
def breadcrumbs_ties(
    deltas: Sequence[Tensor],
    *,
    weight: Weight,
    scale: Scale,
    normalize: bool = False,
    prepared: _Prepared,
    tile: Tile,
) -> Tensor:
    """Keep each delta's middle like `breadcrumbs`, then elect signs and merge like `ties`.

    compat: counts in rows ("official") or whole tensors ("mergekit"), see `breadcrumbs`.
    """
    return elect(_kept(deltas, prepared, tile), weight, tile, normalize=normalize).mul_(scale)
