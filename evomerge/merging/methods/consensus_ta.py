"""Consensus task arithmetic with TALL masks (Wang et al., 2024). https://arxiv.org/abs/2405.07813."""

from collections.abc import Sequence
from typing import Annotated

from torch import Tensor

from evomerge.merging.kernels.combination import combine, one_model
from evomerge.merging.method import BASE, Bounds, Combination, CopyOf, PerInput, Shared, merge_method
from evomerge.merging.methods._tall_masks import check_task, kept
from evomerge.merging.tiles import TensorSource, Tile

Weight = Annotated[PerInput, Bounds(1.0, -1.0, 1.5)]
Threshold = Annotated[PerInput, Bounds(0.4, 0.2, 0.6)]
#: The same direction as scaling all weights, hence not searched.
Scale = Annotated[Shared, Bounds(1.0, 1.0, 1.0)]


def _coefficients(
    source: TensorSource, *, weight: Weight, scale: Scale, votes: int = 2, task: str = ""
) -> CopyOf | tuple[float, ...]:
    coefficients = tuple(scale * value for value in weight)
    n_inputs = len(coefficients)
    if not any(coefficients) or (task not in source.input_names if task else votes > n_inputs):
        return CopyOf(BASE)
    everything = votes <= 0 and not task
    return (one_model(coefficients) if everything else None) or coefficients


def _needed(
    deltas: Sequence[Tensor], *, threshold: Threshold, votes: int = 2, task: str = "", tile: Tile
) -> list[Tensor]:
    """Set the elements that too few models need to zero, in place."""
    total = tile.scratch("sum", deltas[0]).zero_()
    for delta in deltas:
        total.add_(delta)
    mask = kept(deltas, total, threshold, tile, votes=votes, task=task)
    return [delta.mul_(mask) for delta in deltas]


@merge_method(
    operates_on="deltas",
    reference="https://arxiv.org/abs/2405.07813",
    prepare=_coefficients,
    survey=check_task,
    linear_in=("weight", "scale"),
    gradient=Combination(("weight", "scale"), terms=_needed),
)
def consensus_ta(
    deltas: Sequence[Tensor],
    *,
    threshold: Threshold,
    votes: int = 2,
    task: str = "",
    prepared: tuple[float, ...],
    tile: Tile,
) -> Tensor:
    """Task arithmetic on the elements that at least `votes` models need; the others keep the base's value.

    A model needs an element where its own delta is larger than `threshold` times the sum of all other deltas.
    votes: 0 is task arithmetic, 1 removes elements that no model needs. task: name of an input; the merge is then its
    reconstruction from the shared merged delta, on the elements that this input needs. Weights scale the
    deltas in the merge, but not in the comparison.
    """
    total = tile.scratch("sum", deltas[0]).zero_()
    for delta in deltas:
        total.add_(delta)
    mask = kept(deltas, total, threshold, tile, votes=votes, task=task)
    return combine(deltas, prepared).mul_(mask)
