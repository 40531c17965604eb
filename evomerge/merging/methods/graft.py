"""Graft: the few elements of each delta that hold its skill (Panigrahi et al., 2023). https://arxiv.org/abs/2302.06600."""

from collections.abc import Sequence
from operator import itemgetter
from typing import Annotated

from torch import Tensor

from evomerge.merging.kernels.combination import combine, one_model
from evomerge.merging.kernels.sparsify import Cut, cut_mask, trim
from evomerge.merging.kernels.thresholds import Largest
from evomerge.merging.method import BASE, SHARE, Bounds, Combination, CopyOf, PerInput, Sparse, merge_method
from evomerge.merging.tiles import TensorSource, Tile

Weight = Annotated[PerInput, Bounds(1.0, 0.0, 1.5)]
#: The paper grafts 0.01 % of the elements; masks that were not optimized need more.
Density = Annotated[PerInput, Bounds(0.01, 0.0001, 0.2, allowed=SHARE)]

Prepared = tuple[tuple[float, ...], tuple[Cut | None, ...]]


def _cuts(source: TensorSource, *, weight: Weight, density: Density, surveyed: Largest) -> CopyOf | Prepared:
    if not any(weight):
        return CopyOf(BASE)
    cuts = surveyed.cuts(source, density)
    alone = one_model(tuple(weight)) if cuts == (None,) * len(cuts) else None
    return alone or (tuple(weight), cuts)


def _grafts(deltas: Sequence[Tensor], *, prepared: Prepared, tile: Tile) -> list[Tensor]:
    return [trim(delta, cut, tile) for delta, cut in zip(deltas, prepared[1], strict=True)]


def _sparse(source: TensorSource, *, prepared: Prepared) -> Sparse:
    return Sparse([cut_mask(cut, source) for cut in prepared[1]], prepared[0])


@merge_method(
    operates_on="deltas",
    reference="https://arxiv.org/abs/2302.06600",
    prepare=_cuts,
    survey=Largest,
    linear_in=("weight",),
    gradient=Combination(("weight",), terms=_grafts, coefficients=itemgetter(0)),
    fused=_sparse,
)
def graft(deltas: Sequence[Tensor], *, prepared: Prepared, tile: Tile) -> Tensor:
    """Base + sum of weight times the largest elements of each delta, a share `density` of those of the whole model.

    The paper starts from these masks and optimizes them on the task's data, after which 0.01 % of the elements
    suffice; here `density` is searched instead, and `evomerge tools mask` learns masks for `masked`. `compeft` with
    `values: prune` merges the same, over other ranges.
    """
    return combine(_grafts(deltas, prepared=prepared, tile=tile), prepared[0])
