"""SCE: select elements, calculate weights, erase minorities (Wan et al., 2024). https://arxiv.org/abs/2408.07990."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, NamedTuple

from torch import Tensor

from evomerge.merging.kernels.consensus import Rule, elect, elect_slopes
from evomerge.merging.kernels.disagreement import mean_squares, select, selection
from evomerge.merging.kernels.sparsify import Cut
from evomerge.merging.method import BASE, SHARE, Bounds, Contraction, CopyOf, PerInput, Shared, merge_method
from evomerge.merging.tiles import TensorSource, Tile

Weight = Annotated[PerInput, Bounds(1.0, 0.0, 1.0)]
SelectTopk = Annotated[Shared, Bounds(0.1, 0.05, 1.0, allowed=SHARE)]
Scale = Annotated[Shared, Bounds(1.0, 0.3, 2.2)]
Compat = Literal["official", "mergekit"]
#: Signs are elected without weights, which apply to the mean.
_RULE = Rule(weighted_votes=False)
#: Sum of the deltas' mean squares below which mergekit uses equal weights.
_SMALL = 1e-6


class _Prepared(NamedTuple):
    cut: Cut | None
    shares: tuple[float, ...]
    weights: tuple[float, ...]


def _prepare(
    source: TensorSource, *, weight: Weight, select_topk: SelectTopk, scale: Scale, compat: Compat = "official"
) -> CopyOf | _Prepared:
    if scale == 0 or not any(weight):
        return CopyOf(BASE)
    cut = selection(source, select_topk)
    squares = mean_squares(source, select_topk)
    whole = sum(squares)
    uniform = whole < _SMALL if compat == "mergekit" else whole == 0
    shares = tuple(1 / len(squares) if uniform else square / whole for square in squares)
    return _Prepared(cut, shares, tuple(value * share for value, share in zip(weight, shares, strict=True)))


def _slopes(
    deltas: Sequence[Tensor],
    gradient: Tensor,
    *,
    scale: Scale,
    compat: Compat = "official",
    prepared: _Prepared,
    tile: Tile,
) -> Mapping[str, float | list[float]]:
    if compat == "mergekit":
        select(deltas, prepared.cut, tile)
    found = elect_slopes(deltas, prepared.weights, gradient, tile, normalize=True, rule=_RULE, scale=scale)
    by_weight = zip(found["weight"], prepared.shares, strict=True)
    return {"weight": [slope * share for slope, share in by_weight], "scale": found["scale"]}


@merge_method(
    operates_on="deltas",
    reference="https://arxiv.org/abs/2408.07990",
    prepare=_prepare,
    linear_in=("scale",),
    gradient=Contraction(("weight", "scale"), _slopes),
)
def sce(
    deltas: Sequence[Tensor],
    *,
    scale: Scale,
    compat: Compat = "official",
    prepared: _Prepared,
    tile: Tile,
) -> Tensor:
    """Average per element of the deltas with the sign of their sum, weighted by their squares where they differ.

    A delta's weight in a tensor is its mean square over the `select_topk` fraction of elements with the largest
    variance between the inputs, times `weight`.

    compat: "official" merges all elements, "mergekit" only the selected ones, with equal weights if the
    mean squares sum to less than 1e-6, as those of fine-tuned models often do.
    """
    if compat == "mergekit":
        select(deltas, prepared.cut, tile)
    return elect(deltas, prepared.weights, tile, normalize=True, rule=_RULE).mul_(scale)
