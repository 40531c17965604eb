"""ExPO: extrapolation beyond an aligned model, away from its start (Zheng et al., 2024). https://arxiv.org/abs/2404.16792."""

from collections.abc import Sequence
from typing import Annotated

from torch import Tensor

from evomerge.merging.kernels.combination import combine, one_model
from evomerge.merging.method import Bounds, Combination, CopyOf, Shared, SumOf, merge_method
from evomerge.merging.tiles import TensorSource

Alpha = Annotated[Shared, Bounds(0.3, 0.0, 1.0)]


def _coefficient(_source: TensorSource, *, alpha: Alpha) -> CopyOf | SumOf:
    return one_model((1 + alpha,)) or SumOf((1 + alpha,))


@merge_method(
    operates_on="deltas",
    reference="https://arxiv.org/abs/2404.16792",
    prepare=_coefficient,
    gradient=Combination(("alpha",)),
    max_inputs=1,
)
def expo(deltas: Sequence[Tensor], *, prepared: SumOf) -> Tensor:
    """model + alpha * (model - base): the base is the checkpoint before alignment, the input the aligned model."""
    return combine(deltas, prepared.coefficients)
