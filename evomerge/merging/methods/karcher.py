"""Karcher mean (Grove & Karcher, 1973) of models: the mean on the sphere. https://arxiv.org/abs/2603.04972."""

import math
from collections.abc import Sequence
from typing import Annotated

import numpy as np
from torch import Tensor

from evomerge.merging.kernels.combination import combine, normalized, sole_input
from evomerge.merging.kernels.gram import FloatArray, gram
from evomerge.merging.method import BASE, Bounds, Combination, CopyOf, MethodError, PerInput, SumOf, merge_method
from evomerge.merging.tiles import TensorSource

Weight = Annotated[PerInput, Bounds(1.0, 0.0, 1.0)]
#: Above this sine, two directions count as opposite, with no shortest arc between them.
_OPPOSITE = 1e-4


def _coefficients(source: TensorSource, *, weight: Weight, max_iter: int = 10, tol: float = 1e-5) -> CopyOf | SumOf:
    if max_iter < 0 or tol <= 0:
        raise MethodError(f"karcher needs max_iter >= 0 and tol > 0; they are {max_iter} and {tol}.")
    if abs(sum(weight)) < 1e-8:
        raise MethodError(f"{source.tensor}: the weights {list(weight)} add up to 0 and cannot be normalized.")
    shares = normalized(weight)
    sole = sole_input(shares)
    if sole is not None or source.identical:
        return CopyOf(BASE if sole is None else sole)
    products = gram(source, "weights")
    lengths = np.sqrt(np.diagonal(products))
    used = [i for i, share in enumerate(shares) if lengths[i] > tol and share]
    weights = np.array(shares)[used]
    if weights.sum() == 0:
        return SumOf(shares)
    units = products[np.ix_(used, used)] / np.outer(lengths[used], lengths[used])
    mean = _mean(units, weights / weights.sum(), max_iter, tol)
    coefficients = np.zeros(len(shares))
    coefficients[used] = mean / lengths[used] * (np.array(shares) @ lengths)
    return SumOf(tuple(coefficients.tolist()))


def _mean(units: FloatArray, weights: FloatArray, max_iter: int, tol: float) -> FloatArray:
    """Return coefficients (n,) with which unit vectors sum to their mean; units: their Gram matrix (n, n)."""
    mean = weights / max(_length(units, weights), tol)
    if _length(units, weights) < tol:
        mean = np.eye(len(weights))[0]
    for _ in range(max_iter):
        cosine = np.clip(units @ mean, -1.0, 1.0)
        angle = np.arccos(cosine)
        # Vectors at the mean exert no pull, opposite ones none with a defined direction.
        pulls = (angle >= tol) & (np.sin(angle) >= _OPPOSITE * np.minimum(angle, 1.0))
        pull = np.where(pulls, weights * angle / np.where(pulls, np.sin(angle), 1.0), 0.0)
        tangent = pull - (pull @ cosine) * mean
        step = _length(units, tangent)
        if step < tol:
            break
        mean = math.cos(step) * mean + math.sin(step) / step * tangent
        mean = mean / max(_length(units, mean), tol)
    return mean


def _length(units: FloatArray, coefficients: FloatArray) -> float:
    return math.sqrt(max(float(coefficients @ units @ coefficients), 0.0))


@merge_method(
    operates_on="weights",
    reference="https://arxiv.org/abs/2603.04972",
    prepare=_coefficients,
    # A tighter tolerance, so that the number of steps does not change between nearby weights.
    gradient=Combination(("weight",), options={"tol": 1e-12}),
)
def karcher(weights: Sequence[Tensor], *, prepared: SumOf) -> Tensor:
    """Per tensor, the weighted mean direction on the sphere times the weighted mean length.

    At most `max_iter` steps, until one is shorter than `tol`. A model whose tensor is shorter than `tol` contributes
    its length but no direction; if no model has a direction, the result is the weighted mean.

    compat: mergekit's weights are all equal, the default here; if no model has a direction it returns zeros.
    """
    return combine(weights, prepared.coefficients)
