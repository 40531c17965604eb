"""Consensus task arithmetic, by TALL masks (Wang et al., 2024). https://arxiv.org/abs/2405.07813."""

from collections.abc import Sequence
from typing import Annotated

from torch import Tensor

from evomerge.merging.kernels.combination import combine, one_model
from evomerge.merging.method import BASE, Bounds, CopyOf, PerInput, Shared, merge_method
from evomerge.merging.methods._tall_masks import check_task, kept
from evomerge.merging.tiles import TensorSource, Tile

Weight = Annotated[PerInput, Bounds(1.0, -1.0, 1.5)]
Threshold = Annotated[PerInput, Bounds(0.4, 0.2, 0.6)]
#: One direction with the weights, therefore not searched by itself.
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


@merge_method(
    operates_on="deltas",
    reference="https://arxiv.org/abs/2405.07813",
    prepare=_coefficients,
    survey=check_task,
    linear_in=("weight", "scale"),
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
    """Task arithmetic on the elements that at least `votes` models need; the others stay the base's.

    A model needs an element where its own delta is larger than `threshold` times what the deltas of all the others
    add up to. votes: 0 is task arithmetic, 1 takes out what nobody needs. task: the name of an input; the merge is
    then its reconstruction from what all have in common, on the elements that it needs alone. Weights multiply the
    deltas of the merge, not those of the comparison.
    """
    total = tile.scratch("sum", deltas[0]).zero_()
    for delta in deltas:
        total.add_(delta)
    mask = kept(deltas, total, threshold, tile, votes=votes, task=task)
    return combine(deltas, prepared).mul_(mask)
