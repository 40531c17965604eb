"""DARE with the sign election of TIES (Yu et al., 2024). https://arxiv.org/abs/2311.03099."""

from collections.abc import Sequence
from typing import Annotated

from torch import Tensor

from evomerge.merging.kernels.combination import one_model
from evomerge.merging.kernels.consensus import RULES, Compat, Election, ElectionSlopes, elect, elect_slopes, elected
from evomerge.merging.kernels.sparsify import Rescale, at_random, drop_at_random, rescale_factors
from evomerge.merging.method import BASE, SHARE, Bounds, Contraction, CopyOf, PerInput, Shared, Sparse, merge_method
from evomerge.merging.tiles import TensorSource, Tile

Weight = Annotated[PerInput, Bounds(1.0, 0.0, 1.0)]
Density = Annotated[PerInput, Bounds(0.5, 0.05, 1.0, allowed=SHARE)]
#: The same direction as scaling all weights unless they are normalized, hence not searched.
Scale = Annotated[Shared, Bounds(1.0, 1.0, 1.0)]


def _factors(
    source: TensorSource,
    *,
    weight: Weight,
    density: Density,
    scale: Scale,
    rescale: Rescale = "paper",
    compat: Compat = "mergekit",
) -> CopyOf | tuple[float, ...]:
    if scale == 0 or not any(weight):
        return CopyOf(BASE)
    whole = all(value == 1 for value in density) and scale == 1 and compat == "mergekit"
    alone = one_model(weight) if whole else None
    return alone or rescale_factors(source, density, rescale)


def _thinned(deltas: Sequence[Tensor], density: Sequence[float], factors: Sequence[float], tile: Tile) -> list[Tensor]:
    parts = enumerate(zip(deltas, density, factors, strict=True))
    return [drop_at_random(delta, tile, index, share).mul_(factor) for index, (delta, share, factor) in parts]


def _sparse(
    source: TensorSource,
    *,
    weight: Weight,
    density: Density,
    scale: Scale,
    normalize: bool = False,
    compat: Compat = "mergekit",
    election: Election = "total",
    prepared: tuple[float, ...],
) -> Sparse:
    masks = [at_random(source, index, share) for index, share in enumerate(density)]
    rule = RULES[compat]
    return elected(masks, prepared, weight, normalize=normalize, rule=rule, election=election, scale=scale)


def _slopes(
    deltas: Sequence[Tensor],
    gradient: Tensor,
    *,
    weight: Weight,
    density: Density,
    scale: Scale,
    normalize: bool = False,
    compat: Compat = "mergekit",
    election: Election = "total",
    prepared: tuple[float, ...],
    tile: Tile,
) -> ElectionSlopes:
    thinned, rule = _thinned(deltas, density, prepared, tile), RULES[compat]
    return elect_slopes(thinned, weight, gradient, tile, normalize=normalize, rule=rule, election=election, scale=scale)


@merge_method(
    operates_on="deltas",
    reference="https://arxiv.org/abs/2311.03099",
    prepare=_factors,
    linear_in=("scale",),
    gradient=Contraction(("weight", "scale"), _slopes),
    fused=_sparse,
    random=True,
)
def dare_ties(
    deltas: Sequence[Tensor],
    *,
    weight: Weight,
    density: Density,
    scale: Scale,
    normalize: bool = False,
    compat: Compat = "mergekit",
    election: Election = "total",
    prepared: tuple[float, ...],
    tile: Tile,
) -> Tensor:
    """Sparsify each delta at random and rescale it like `dare_linear`, then elect signs and merge like `ties`.

    compat: voters and divisor of a normalized sum, "mergekit" or "peft" as for `ties`.
    """
    thinned = _thinned(deltas, density, prepared, tile)
    return elect(thinned, weight, tile, normalize=normalize, rule=RULES[compat], election=election).mul_(scale)
