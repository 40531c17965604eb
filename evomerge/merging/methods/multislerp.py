"""Multi-SLERP (Goddard, 2025): mean direction times mean length. https://goddard.blog/posts/multislerp-wow-what-a-cool-idea."""

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from torch import Tensor

from evomerge.merging.kernels.combination import normalized, sole_input, sum_of
from evomerge.merging.kernels.gram import FloatArray, gram
from evomerge.merging.method import BASE, Bounds, Combination, CopyOf, MethodError, PerInput, SumOf, merge_method
from evomerge.merging.tiles import TensorSource

Weight = Annotated[PerInput, Bounds(1.0, 0.0, 1.0)]
#: Added to every length.
_EPS = 1e-8
#: Directions whose sum is shorter than this, relative to the sum of their weights, cancel.
_CANCELLED = 1e-4


def _coefficients(
    source: TensorSource, *, weight: Weight, relative_to_base: bool = False, normalize: bool = True
) -> CopyOf | SumOf:
    if relative_to_base and not any(weight):
        return CopyOf(BASE)
    if normalize and abs(sum(weight)) < 1e-8:
        raise MethodError(f"{source.tensor}: the weights {list(weight)} add up to 0 and cannot be normalized.")
    weights = normalized(weight) if normalize else tuple(weight)
    sole = sole_input(weights)
    if sole is not None:
        return CopyOf(sole)
    if source.identical and (normalize or relative_to_base):
        return CopyOf(BASE)
    products = gram(source, "deltas" if relative_to_base else "weights")
    coefficients = _direction_times_length(products, np.array(weights))
    return SumOf(coefficients, "deltas" if relative_to_base else "operands")


def _direction_times_length(products: FloatArray, weights: FloatArray) -> tuple[float, ...]:
    lengths = np.sqrt(np.diagonal(products))
    shares = weights / (lengths + _EPS)
    direction = np.sqrt(max(float(shares @ products @ shares), 0.0))
    if direction <= _CANCELLED * np.abs(weights).sum():
        return tuple(weights.tolist())
    return tuple((shares * (weights @ lengths) / direction).tolist())


@merge_method(
    operates_on="weights",
    reference="https://goddard.blog/posts/multislerp-wow-what-a-cool-idea",
    prepare=_coefficients,
    gradient=Combination(("weight",)),
)
def multislerp(weights: Sequence[Tensor], *, base: Tensor, prepared: SumOf) -> Tensor:
    """Per tensor, the direction of the weighted sum of unit vectors times the weighted sum of lengths.

    relative_to_base: apply it to the deltas, and add the base. normalize: divide weights by their sum.
    If directions cancel, the result is the weighted sum of the models.

    compat: mergekit projects onto the tangent space at this direction and back, which changes only rounding;
    given a base model it works on deltas (`relative_to_base: true`). It rejects three or more models
    whose directions cancel, such as those that leave a tensor unchanged.
    """
    return sum_of(weights, base, prepared)
