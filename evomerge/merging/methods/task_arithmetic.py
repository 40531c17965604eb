"""Task arithmetic (Ilharco et al., 2023). https://arxiv.org/abs/2212.04089."""

from collections.abc import Sequence
from typing import Annotated

from torch import Tensor

from evomerge.merging.kernels.combination import combine, normalized, one_model
from evomerge.merging.method import Bounds, Combination, CopyOf, PerInput, Shared, SumOf, merge_method
from evomerge.merging.tiles import TensorSource

Weight = Annotated[PerInput, Bounds(1.0, -1.0, 1.5)]
#: The same direction as scaling all weights, hence not searched.
Scale = Annotated[Shared, Bounds(1.0, 1.0, 1.0)]


def _coefficients(_source: TensorSource, *, weight: Weight, scale: Scale, normalize: bool = False) -> CopyOf | SumOf:
    weights = normalized(weight) if normalize else weight
    coefficients = tuple(scale * value for value in weights)
    return one_model(coefficients) or SumOf(coefficients)


@merge_method(
    operates_on="deltas",
    reference="https://arxiv.org/abs/2212.04089",
    prepare=_coefficients,
    linear_in=("weight", "scale"),
    gradient=Combination(("weight", "scale")),
)
def task_arithmetic(deltas: Sequence[Tensor], *, prepared: SumOf) -> Tensor:
    """Base + scale * sum of weight times delta; a negative weight unlearns a task."""
    return combine(deltas, prepared.coefficients)
