"""SLERP (Shoemake, 1985): the great circle from the base to one other model. https://doi.org/10.1145/325334.325242."""

import math
from collections.abc import Sequence
from typing import Annotated

from torch import Tensor

from evomerge.merging.kernels.combination import sum_of
from evomerge.merging.kernels.gram import gram
from evomerge.merging.method import BASE, Bounds, Combination, CopyOf, Shared, SumOf, merge_method
from evomerge.merging.tiles import TensorSource

#: Above this cosine the sine in the denominator is noise: interpolate linearly. Also for opposite models.
COLINEAR = 0.9995
_SHORT = 1e-8


def _coefficients(source: TensorSource, *, t: Annotated[Shared, Bounds(0.5, 0.0, 1.0)]) -> CopyOf | SumOf:
    if t == 0 or source.identical:
        return CopyOf(BASE)
    if t == 1:
        return CopyOf(0)
    (aa, ab), (_, bb) = gram(source, "weights", with_base=True).tolist()
    norms = [math.sqrt(square) for square in (aa, bb)]
    # A tensor that is nearly zero keeps its length, since it has no direction.
    lengths = [norm if norm > _SHORT else 1.0 for norm in norms]
    cosine = ab / (lengths[0] * lengths[1])
    if abs(cosine) > COLINEAR:
        return SumOf((1 - t, t), "base and weights")
    angle = math.acos(cosine)
    ends = math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)
    return SumOf(ends, "base and weights")


@merge_method(
    operates_on="weights",
    reference="https://doi.org/10.1145/325334.325242",
    prepare=_coefficients,
    gradient=Combination(("t",)),
    max_inputs=1,
)
def slerp(weights: Sequence[Tensor], *, base: Tensor, prepared: SumOf) -> Tensor:
    """Spherical interpolation per tensor: t = 0 is the base, 1 the other model; beyond, it extrapolates."""
    return sum_of(weights, base, prepared)
