"""DELLA: drop small deltas at random, then elect signs (Deep et al., 2024). https://arxiv.org/abs/2406.11617."""

from collections.abc import Sequence
from typing import Annotated, NamedTuple

from torch import Tensor

from evomerge.merging.kernels.combination import one_model
from evomerge.merging.kernels.consensus import ElectionSlopes, elect, elect_slopes, elected
from evomerge.merging.kernels.ranks import DellaCompat, Magprune, magprune, magprune_factors
from evomerge.merging.kernels.sparsify import Rescale
from evomerge.merging.method import BASE, SHARE, Bounds, Contraction, CopyOf, PerInput, Shared, Sparse, merge_method
from evomerge.merging.tiles import TensorSource, Tile

Weight = Annotated[PerInput, Bounds(1.0, 0.0, 1.0)]
Density = Annotated[PerInput, Bounds(0.5, 0.05, 1.0, allowed=SHARE)]
Epsilon = Annotated[PerInput, Bounds(0.15, 0.0, 0.3)]
Scale = Annotated[Shared, Bounds(1.0, 0.3, 2.2)]


class _Prepared(NamedTuple):
    prunes: tuple[Magprune, ...]
    factors: tuple[float, ...]


def _prunes(
    source: TensorSource,
    *,
    weight: Weight,
    density: Density,
    epsilon: Epsilon,
    scale: Scale,
    rescale: Rescale = "paper",
    compat: DellaCompat = "official",
) -> CopyOf | _Prepared:
    if scale == 0 or not any(weight):
        return CopyOf(BASE)
    untouched = all(value == 1 for value in density) and scale == 1
    alone = one_model(weight) if untouched else None
    if alone is not None:
        return alone
    prunes = magprune(source, density, epsilon, compat)
    return _Prepared(prunes, magprune_factors(source, prunes, rescale))


def _thinned(deltas: Sequence[Tensor], prepared: _Prepared, rescale: Rescale, tile: Tile) -> list[Tensor]:
    return [
        prune.drop(delta, tile, index, rescale=rescale == "paper").mul_(factor)
        for index, (prune, factor, delta) in enumerate(zip(*prepared, deltas, strict=True))
    ]


def _sparse(
    source: TensorSource,
    *,
    weight: Weight,
    scale: Scale,
    rescale: Rescale = "paper",
    normalize: bool = True,
    prepared: _Prepared,
) -> Sparse:
    masks = [prune.mask(source, i, rescale=rescale == "paper") for i, prune in enumerate(prepared.prunes)]
    return elected(masks, prepared.factors, weight, normalize=normalize, scale=scale)


def _slopes(
    deltas: Sequence[Tensor],
    gradient: Tensor,
    *,
    weight: Weight,
    scale: Scale,
    rescale: Rescale = "paper",
    normalize: bool = True,
    prepared: _Prepared,
    tile: Tile,
) -> ElectionSlopes:
    thinned = _thinned(deltas, prepared, rescale, tile)
    return elect_slopes(thinned, weight, gradient, tile, normalize=normalize, scale=scale)


@merge_method(
    operates_on="deltas",
    reference="https://arxiv.org/abs/2406.11617",
    prepare=_prunes,
    linear_in=("scale",),
    gradient=Contraction(("weight", "scale"), _slopes),
    fused=_sparse,
    random=True,
)
def della(
    deltas: Sequence[Tensor],
    *,
    weight: Weight,
    scale: Scale,
    rescale: Rescale = "paper",
    normalize: bool = True,
    prepared: _Prepared,
    tile: Tile,
) -> Tensor:
    """Sparsify each delta at random by its elements' ranks like `della_linear`, then elect signs and merge like `ties`.

    compat: "mergekit" rejects an epsilon that gives probabilities outside (0, 1); "official" clips it.
    mergekit's own rescaling is `rescale: mergekit`.
    """
    thinned = _thinned(deltas, prepared, rescale, tile)
    return elect(thinned, weight, tile, normalize=normalize).mul_(scale)
