"""Variance-corrected averaging (Tian et al., 2024): restore the variance of the models. https://arxiv.org/abs/2404.04616."""

import math
from collections.abc import Sequence
from typing import Annotated, NamedTuple

import numpy as np
import torch
from torch import Tensor

from evomerge.merging.kernels.combination import combine, normalized, sole_input
from evomerge.merging.kernels.gram import gram, means
from evomerge.merging.method import BASE, Bounds, Combination, CopyOf, MethodError, PerInput, Shared, merge_method
from evomerge.merging.tiles import TensorSource

Weight = Annotated[PerInput, Bounds(1.0, 0.0, 1.0)]
#: If less than this fraction of the inputs' variance is left, the rest is rounding error.
_VANISHED = 1e-8


class _Affine(NamedTuple):
    coefficients: tuple[float, ...]
    constant: float


def _affine(
    source: TensorSource,
    *,
    weight: Weight,
    base_share: Annotated[Shared, Bounds(0.0, 0.0, 1.0)],
    epsilon: float = 0.0,
) -> CopyOf | _Affine:
    if epsilon < 0:
        raise MethodError(f"variance_corrected: epsilon must not be negative; it is {epsilon}.")
    if abs(sum(weight)) < 1e-8:
        raise MethodError(f"{source.tensor}: the weights {list(weight)} add up to 0 and cannot be normalized.")
    shares = normalized(weight)
    sole = sole_input(shares)
    if source.identical or (sole is not None and base_share == 0):
        return CopyOf(BASE if sole is None else sole)
    if source.numel == 1:
        return _Affine(shares, 0.0)
    with_base = base_share != 0
    covariance = gram(source, "centred", with_base=with_base) / (source.numel - 1)
    inputs = covariance[with_base:, with_base:]
    own = float(np.array(shares) @ np.diagonal(inputs))
    wanted = base_share * float(covariance[0, 0]) + (1 - base_share) * own
    left = float(np.array(shares) @ inputs @ np.array(shares))
    if left <= _VANISHED * float(np.abs(shares) @ np.diagonal(inputs)):
        return _Affine(shares, 0.0)
    factor = math.sqrt(max(wanted + epsilon, 0.0) / (left + epsilon))
    mean = float(np.array(shares) @ means(source, with_base=with_base)[with_base:])
    return _Affine(tuple(factor * share for share in shares), (1 - factor) * mean)


def _models_and_ones(weights: Sequence[Tensor]) -> list[Tensor]:
    return [*weights, torch.ones_like(weights[0])]


def _all_coefficients(prepared: _Affine) -> tuple[float, ...]:
    return (*prepared.coefficients, prepared.constant)


@merge_method(
    operates_on="weights",
    reference="https://arxiv.org/abs/2404.04616",
    prepare=_affine,
    gradient=Combination(("weight", "base_share"), terms=_models_and_ones, coefficients=_all_coefficients),
)
def variance_corrected(weights: Sequence[Tensor], *, prepared: _Affine) -> Tensor:
    """Weighted average, with each tensor stretched around its mean to the variance of the models.

    Target variance: base_share of the base's, the rest from the weighted mean of the inputs' (in the paper's words, 0
    follows the others, 1 the own model, and values in between are conservative). Single elements, and averages
    without any variance left, are not stretched. For models from different starting points: deltas to
    one base hardly lose variance.

    compat: the authors' later code adds 1e-4 to both variances (`epsilon: 0.0001`), which is not small compared with
    those of a language model's weights.
    """
    return combine(weights, prepared.coefficients).add_(prepared.constant)
