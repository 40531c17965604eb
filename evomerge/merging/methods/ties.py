"""TIES: trim, elect signs, merge agreeing values (Yadav et al., 2023). https://arxiv.org/abs/2306.01708."""

from collections.abc import Iterable, Sequence
from typing import Annotated, Literal, NamedTuple

from torch import Tensor

from evomerge.merging.kernels.combination import one_model
from evomerge.merging.kernels.consensus import RULES, Election, ElectionSlopes, Rule, elect, elect_slopes, elected
from evomerge.merging.kernels.sparsify import Cut, cut_mask, largest, restoring_factor, trim
from evomerge.merging.kernels.whole_ties import WholeModel
from evomerge.merging.method import BASE, SHARE, Bounds, Contraction, CopyOf, PerInput, Shared, Sparse, merge_method
from evomerge.merging.tiles import TensorSource, Tile

Weight = Annotated[PerInput, Bounds(1.0, 0.0, 1.0)]
Density = Annotated[PerInput, Bounds(0.5, 0.05, 1.0, allowed=SHARE)]
Scale = Annotated[Shared, Bounds(1.0, 0.3, 2.2)]
Compat = Literal["mergekit", "peft", "official", "mergelm"]
#: "mergekit": restore each delta's L1 norm per tensor, except near-zero norms. "none": do nothing.
Rescale = Literal["none", "mergekit"]


class _Prepared(NamedTuple):
    cuts: tuple[Cut | None, ...]
    factors: tuple[float, ...]
    rule: Rule


def _whole(sources: Iterable[TensorSource], *, compat: Compat = "mergekit") -> WholeModel | None:
    return WholeModel(sources, compat) if compat == "official" or compat == "mergelm" else None


def _cuts(
    source: TensorSource,
    *,
    weight: Weight,
    density: Density,
    scale: Scale,
    compat: Compat = "mergekit",
    election: Election = "total",
    rescale: Rescale = "none",
    surveyed: WholeModel | None,
) -> CopyOf | _Prepared:
    if scale == 0 or not any(weight):
        return CopyOf(BASE)
    if surveyed is not None:
        cuts = surveyed.cuts(source, density)
        rule = surveyed.rule(source, density, weight, election)
        return _Prepared(cuts, _factors(source, cuts, rescale), rule)
    untrimmed = all(value == 1 for value in density)
    alone = one_model(weight) if untrimmed and scale == 1 and compat == "mergekit" else None
    # mergekit keeps an element of every tensor, PEFT does not.
    at_least = 1 if compat == "mergekit" else 0
    cuts = tuple(largest(source, index, value, at_least=at_least) for index, value in enumerate(density))
    rule = RULES["mergekit" if compat == "mergekit" else "peft"]
    return alone or _Prepared(cuts, _factors(source, cuts, rescale), rule)


def _factors(source: TensorSource, cuts: Sequence[Cut | None], rescale: Rescale) -> tuple[float, ...]:
    """Return the factor of each trimmed delta (n_inputs)."""

    def factor(index: int, cut: Cut | None) -> float:
        trimmed = cut is not None and rescale == "mergekit"
        return restoring_factor(source, index, lambda delta, tile: trim(delta, cut, tile)) if trimmed else 1.0

    return tuple(factor(index, cut) for index, cut in enumerate(cuts))


def _trimmed(deltas: Sequence[Tensor], prepared: _Prepared, tile: Tile) -> list[Tensor]:
    parts = zip(deltas, prepared.cuts, prepared.factors, strict=True)
    return [trim(delta, cut, tile).mul_(factor) for delta, cut, factor in parts]


def _sparse(
    source: TensorSource,
    *,
    weight: Weight,
    scale: Scale,
    normalize: bool = True,
    election: Election = "total",
    prepared: _Prepared,
) -> Sparse:
    masks = [cut_mask(cut, source) for cut in prepared.cuts]
    rule = prepared.rule
    return elected(masks, prepared.factors, weight, normalize=normalize, rule=rule, election=election, scale=scale)


def _slopes(
    deltas: Sequence[Tensor],
    gradient: Tensor,
    *,
    weight: Weight,
    scale: Scale,
    normalize: bool = True,
    election: Election = "total",
    prepared: _Prepared,
    tile: Tile,
) -> ElectionSlopes:
    trimmed, rule = _trimmed(deltas, prepared, tile), prepared.rule
    return elect_slopes(trimmed, weight, gradient, tile, normalize=normalize, rule=rule, election=election, scale=scale)


@merge_method(
    operates_on="deltas",
    reference="https://arxiv.org/abs/2306.01708",
    prepare=_cuts,
    survey=_whole,
    linear_in=("scale",),
    gradient=Contraction(("weight", "scale"), _slopes),
    fused=_sparse,
)
def ties(
    deltas: Sequence[Tensor],
    *,
    weight: Weight,
    scale: Scale,
    normalize: bool = True,
    election: Election = "total",
    prepared: _Prepared,
    tile: Tile,
) -> Tensor:
    """Keep the int(density * numel) largest elements of each delta per tensor, elect signs, average agreeing values,
    scale.

    compat: "mergekit", the default, trims every tensor separately, so that the density may differ between
    layers; weighted deltas vote, a sum of zero elects plus, and the divisor is the sum of agreeing weights. "peft"
    trims in the same way, lets all deltas vote unweighted, even those with weight zero, and divides by their number.
    "official" trims by one threshold for the whole model, keeping all elements equal to it, votes and divides like
    "peft", and replaces votes of zero by the sign that wins most elements of the model. "mergelm" rounds the
    number of dropped instead of kept elements, and keeps nothing if the model's vote is undecided too.
    """
    trimmed = _trimmed(deltas, prepared, tile)
    merged = elect(trimmed, weight, tile, normalize=normalize, rule=prepared.rule, election=election)
    return merged.mul_(scale)
