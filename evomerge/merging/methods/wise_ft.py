"""WiSE-FT: interpolation between the base and a fine-tuned model (Wortsman et al., 2022). https://arxiv.org/abs/2109.01903."""

from collections.abc import Sequence
from typing import Annotated

from torch import Tensor

from evomerge.merging.kernels.combination import combine, one_model
from evomerge.merging.method import Bounds, Combination, CopyOf, Shared, SumOf, merge_method
from evomerge.merging.tiles import TensorSource

T = Annotated[Shared, Bounds(0.5, 0.0, 1.0)]


def _coefficient(_source: TensorSource, *, t: T) -> CopyOf | SumOf:
    return one_model((t,)) or SumOf((t,))


@merge_method(
    operates_on="deltas",
    reference="https://arxiv.org/abs/2109.01903",
    prepare=_coefficient,
    max_inputs=1,
    linear_in=("t",),
    gradient=Combination(("t",)),
)
def wise_ft(deltas: Sequence[Tensor], *, prepared: SumOf) -> Tensor:
    """(1 - t) * base + t * model: 0 is the base, 1 the fine-tuned model, both bit for bit; beyond 1 extrapolates."""
    return combine(deltas, prepared.coefficients)
