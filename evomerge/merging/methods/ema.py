"""Exponential moving average of the checkpoints of one run, the baseline of LCSC (Liu et al., 2024). https://arxiv.org/abs/2404.02241."""

from collections.abc import Sequence
from typing import Annotated

from torch import Tensor

from evomerge.merging.kernels.combination import combine, sole_input
from evomerge.merging.method import SHARE, Bounds, Combination, CopyOf, Shared, SumOf, merge_method
from evomerge.merging.tiles import TensorSource

Rate = Annotated[Shared, Bounds(0.5, 0.0, 1.0, allowed=SHARE)]


def _coefficients(source: TensorSource, *, rate: Rate) -> CopyOf | SumOf:
    if source.identical:
        return CopyOf(0)
    last = len(source.input_names) - 1
    later = ((1 - rate) * rate ** (last - step) for step in range(1, last + 1))
    coefficients = (float(rate**last), *later)
    sole = sole_input(coefficients)
    return SumOf(coefficients) if sole is None else CopyOf(sole)


@merge_method(
    operates_on="weights",
    reference="https://arxiv.org/abs/2404.02241",
    prepare=_coefficients,
    gradient=Combination(("rate",)),
)
def ema(weights: Sequence[Tensor], *, prepared: SumOf) -> Tensor:
    """Checkpoints in the order of the inputs, averaged as in training: average = rate * average + (1 - rate) * next.

    rate 0 is the last checkpoint, 1 the first. LCSC then searches a free coefficient of either sign per checkpoint:
    use `linear` with negative values in the range of its weights.
    """
    return combine(weights, prepared.coefficients)
