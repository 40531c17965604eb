"""DELLA without election: drop small deltas at random and add (Deep et al., 2024). https://arxiv.org/abs/2406.11617."""

from collections.abc import Sequence
from operator import attrgetter
from typing import Annotated, NamedTuple

from torch import Tensor

from evomerge.merging.kernels.combination import combine, normalized, one_model
from evomerge.merging.kernels.ranks import DellaCompat, Magprune, magprune, magprune_factors
from evomerge.merging.kernels.sparsify import Rescale
from evomerge.merging.method import SHARE, Bounds, Combination, CopyOf, PerInput, Shared, Sparse, merge_method
from evomerge.merging.tiles import TensorSource, Tile

Weight = Annotated[PerInput, Bounds(1.0, -1.0, 1.5)]
Density = Annotated[PerInput, Bounds(0.5, 0.05, 1.0, allowed=SHARE)]
Epsilon = Annotated[PerInput, Bounds(0.15, 0.0, 0.3)]
#: The same direction as scaling all weights, hence not searched.
Scale = Annotated[Shared, Bounds(1.0, 1.0, 1.0)]


class _Prepared(NamedTuple):
    prunes: tuple[Magprune, ...]
    coefficients: tuple[float, ...]


def _coefficients(
    source: TensorSource,
    *,
    weight: Weight,
    density: Density,
    epsilon: Epsilon,
    scale: Scale,
    rescale: Rescale = "paper",
    normalize: bool = False,
    compat: DellaCompat = "official",
) -> CopyOf | _Prepared:
    weights = [scale * value for value in (normalized(weight) if normalize else weight)]
    kept_whole = all(value == 1 for value in density) or not any(weights)
    alone = one_model(weights) if kept_whole else None
    if alone is not None:
        return alone
    prunes = magprune(source, density, epsilon, compat)
    factors = magprune_factors(source, prunes, rescale)
    return _Prepared(prunes, tuple(value * factor for value, factor in zip(weights, factors, strict=True)))


def _thinned(deltas: Sequence[Tensor], *, rescale: Rescale = "paper", prepared: _Prepared, tile: Tile) -> list[Tensor]:
    pairs = zip(prepared.prunes, deltas, strict=True)
    return [prune.drop(d, tile, i, rescale=rescale == "paper") for i, (prune, d) in enumerate(pairs)]


def _sparse(source: TensorSource, *, rescale: Rescale = "paper", prepared: _Prepared) -> Sparse:
    masks = [prune.mask(source, i, rescale=rescale == "paper") for i, prune in enumerate(prepared.prunes)]
    return Sparse(masks, prepared.coefficients)


@merge_method(
    operates_on="deltas",
    reference="https://arxiv.org/abs/2406.11617",
    prepare=_coefficients,
    linear_in=("weight", "scale"),
    gradient=Combination(("weight", "scale"), terms=_thinned, coefficients=attrgetter("coefficients")),
    fused=_sparse,
    random=True,
)
def della_linear(deltas: Sequence[Tensor], *, rescale: Rescale = "paper", prepared: _Prepared, tile: Tile) -> Tensor:
    """Base + scale * sum of weight times sparsified delta; an element is kept according to its rank in its row.

    Its probability increases from density - epsilon for the smallest magnitude of the row to density + epsilon for
    the largest, in equal steps. rescale: "paper" divides each element by its probability (unbiased), "mergekit"
    restores each delta's L1 norm per tensor. The ranks are kept with the models: two bytes per element and input.

    compat: "mergekit" rejects an epsilon that gives probabilities outside (0, 1); "official" clips it.
    mergekit's own rescaling is `rescale: mergekit`.
    """
    return combine(_thinned(deltas, rescale=rescale, prepared=prepared, tile=tile), prepared.coefficients)
