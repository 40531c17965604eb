"""Linear: weighted average of weights (Wortsman et al., 2022). https://arxiv.org/abs/2203.05482."""

from collections.abc import Sequence
from typing import Annotated

from torch import Tensor

from evomerge.merging.kernels.combination import combine, normalized, sole_input
from evomerge.merging.method import Bounds, Combination, CopyOf, MethodError, PerInput, SumOf, merge_method
from evomerge.merging.tiles import TensorSource

Weight = Annotated[PerInput, Bounds(1.0, 0.0, 1.0)]


def _coefficients(source: TensorSource, *, weight: Weight, normalize: bool = True) -> CopyOf | SumOf:
    if normalize and abs(sum(weight)) < 1e-8:
        raise MethodError(f"{source.tensor}: the weights {list(weight)} add up to 0 and cannot be normalized.")
    coefficients = normalized(weight) if normalize else tuple(weight)
    sole = sole_input(coefficients)
    if sole is not None:
        return CopyOf(sole)
    return CopyOf(0) if normalize and source.identical else SumOf(coefficients)


@merge_method(
    operates_on="weights",
    reference="https://arxiv.org/abs/2203.05482",
    prepare=_coefficients,
    linear_in=("weight",),
    gradient=Combination(("weight",)),
)
def linear(weights: Sequence[Tensor], *, prepared: SumOf) -> Tensor:
    """Sum of weight times model, divided by the sum of the weights unless `normalize` is false."""
    return combine(weights, prepared.coefficients)
