"""Consensus TIES with TALL masks (Wang et al., 2024). https://arxiv.org/abs/2405.07813."""

from collections.abc import Iterable, Sequence
from typing import Annotated

from torch import Tensor

from evomerge.merging.kernels.consensus import ElectionSlopes, elect, elect_slopes
from evomerge.merging.kernels.sparsify import Cut, trim
from evomerge.merging.kernels.thresholds import Largest
from evomerge.merging.method import BASE, SHARE, Bounds, Contraction, CopyOf, PerInput, Shared, merge_method
from evomerge.merging.methods._tall_masks import check_task, kept
from evomerge.merging.tiles import TensorSource, Tile

Weight = Annotated[PerInput, Bounds(1.0, 0.0, 1.0)]
Threshold = Annotated[PerInput, Bounds(0.4, 0.2, 0.6)]
Scale = Annotated[Shared, Bounds(1.0, 0.3, 2.2)]


def _largest(sources: Iterable[TensorSource], *, task: str = "") -> Largest:
    check_task(sources, task=task)
    return Largest(sources)


def _cuts(
    source: TensorSource,
    *,
    weight: Weight,
    density: Annotated[PerInput, Bounds(0.2, 0.05, 1.0, allowed=SHARE)],
    scale: Scale,
    votes: int = 2,
    task: str = "",
    surveyed: Largest,
) -> CopyOf | tuple[Cut | None, ...]:
    if scale == 0 or not any(weight) or (task not in source.input_names if task else votes > len(weight)):
        return CopyOf(BASE)
    return surveyed.cuts(source, density)


def _trimmed(deltas: Sequence[Tensor], cuts: Sequence[Cut | None], tile: Tile) -> list[Tensor]:
    """Return trimmed copies of the deltas."""
    parts = enumerate(zip(deltas, cuts, strict=True))
    return [trim(tile.scratch(("trimmed", index), delta).copy_(delta), cut, tile) for index, (delta, cut) in parts]


def _slopes(
    deltas: Sequence[Tensor],
    gradient: Tensor,
    *,
    weight: Weight,
    threshold: Threshold,
    scale: Scale,
    votes: int = 2,
    task: str = "",
    prepared: tuple[Cut | None, ...],
    tile: Tile,
) -> ElectionSlopes:
    merged = elect(_trimmed(deltas, prepared, tile), weight, tile, normalize=True)
    masked = kept(deltas, merged, threshold, tile, votes=votes, task=task).mul_(gradient)
    return elect_slopes(_trimmed(deltas, prepared, tile), weight, masked, tile, normalize=True, scale=scale)


@merge_method(
    operates_on="deltas",
    reference="https://arxiv.org/abs/2405.07813",
    prepare=_cuts,
    survey=_largest,
    linear_in=("scale",),
    gradient=Contraction(("weight", "scale"), _slopes),
)
def consensus_ties(
    deltas: Sequence[Tensor],
    *,
    weight: Weight,
    threshold: Threshold,
    scale: Scale,
    votes: int = 2,
    task: str = "",
    prepared: tuple[Cut | None, ...],
    tile: Tile,
) -> Tensor:
    """TIES on the elements that at least `votes` models need; the others keep the base's value.

    The merged delta is that of TIES (each delta trimmed to the `density` largest of the whole model, weighted election
    and mean), and a model needs an element where its whole delta is larger than `threshold` times its distance to
    it; see `consensus_ta` for votes and task. With weights of 1 this equals the authors' code, except for deltas
    with equal magnitudes at the threshold, all of which they keep, and for sums of exactly zero, which are positive
    here.
    """
    merged = elect(_trimmed(deltas, prepared, tile), weight, tile, normalize=True)
    mask = kept(deltas, merged, threshold, tile, votes=votes, task=task)
    return merged.mul_(mask).mul_(scale)
