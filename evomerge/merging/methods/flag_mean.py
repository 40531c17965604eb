"""Flag mean of deltas: their leading common direction (Marrinan et al., 2014). https://doi.org/10.1109/CVPR.2014.139."""

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from torch import Tensor

from evomerge.merging.kernels.combination import combine, normalized, sole_input
from evomerge.merging.kernels.gram import FloatArray, cosines, gram
from evomerge.merging.method import BASE, Bounds, Combination, CopyOf, MethodError, PerInput, SumOf, merge_method
from evomerge.merging.tiles import TensorSource

Weight = Annotated[PerInput, Bounds(1.0, 0.0, 1.0)]
#: Singular values that differ by less, relative to the largest one, are equal.
_EQUAL = 1e-6


def _coefficients(source: TensorSource, *, weight: Weight) -> CopyOf | SumOf:
    if not any(weight):
        return CopyOf(BASE)
    if abs(sum(weight)) < 1e-8:
        raise MethodError(f"{source.tensor}: the weights {list(weight)} add up to 0 and cannot be normalized.")
    shares = normalized(weight)
    sole = sole_input(shares)
    if sole is not None:
        return CopyOf(sole)
    return CopyOf(BASE) if source.identical else SumOf(_leading(gram(source, "deltas"), np.array(shares)))


def _leading(products: FloatArray, shares: FloatArray) -> tuple[float, ...]:
    """Return coefficients (n,) of the deltas, given their Gram matrix (n, n) and weights (n,) that sum to 1."""
    lengths = np.sqrt(np.diagonal(products))
    moments = cosines(products, 0.0) * np.outer(shares, shares)
    values, vectors = np.linalg.eigh(moments)
    # Where several directions lead equally, take the one nearest to the weighted sum of unit deltas.
    leading = vectors[:, values >= values[-1] * (1.0 - _EQUAL) ** 2]
    mean = leading @ leading.sum(axis=0)
    size = float(np.sqrt(max(mean @ moments @ mean, 0.0)))
    if size == 0.0 or np.abs(mean).max() < _EQUAL:
        return tuple(shares.tolist())  # the deltas cancel
    scaled = np.divide(shares * mean, lengths, out=np.zeros_like(mean), where=lengths > 0.0)
    return tuple((scaled * (shares @ lengths) / size).tolist())


@merge_method(
    operates_on="deltas",
    reference="https://doi.org/10.1109/CVPR.2014.139",
    prepare=_coefficients,
    gradient=Combination(("weight",)),
)
def flag_mean(deltas: Sequence[Tensor], *, prepared: SumOf) -> Tensor:
    """Base + the direction that is closest to all deltas times their weighted mean length, per tensor.

    That is the leading left singular vector of the matrix whose columns are the deltas, each of length `weight`. Where
    `multislerp` adds the directions up, this follows the majority: a delta at right angles to the others has no part in
    it. If deltas are all at right angles, the result is close to `multislerp` and jumps between nearby weights: the one
    with the largest weight wins.
    """
    return combine(deltas, prepared.coefficients)
