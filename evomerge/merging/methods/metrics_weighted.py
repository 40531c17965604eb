"""Metrics-weighted averaging of checkpoints (Yu and Choi, 2025). https://arxiv.org/abs/2504.18580."""

import math
from collections.abc import Sequence
from typing import Annotated, Literal

from torch import Tensor

from evomerge.merging.kernels.combination import combine, sole_input
from evomerge.merging.method import Bounds, Combination, CopyOf, MethodError, PerInput, Shared, SumOf, merge_method
from evomerge.merging.tiles import TensorSource

#: A known property of a checkpoint, not searched.
Metric = Annotated[PerInput, Bounds(1.0, 1.0, 1.0)]
Penalty = Annotated[Shared, Bounds(1.0, 0.0, 10.0)]
By = Literal["loss", "exponential", "step", "rank"]


def _coefficients(source: TensorSource, *, metric: Metric, penalty: Penalty, by: By = "loss") -> CopyOf | SumOf:
    if source.identical:
        return CopyOf(0)
    logarithms = [penalty * value for value in _merits(source, metric, by)]
    shares = [math.exp(value - max(logarithms)) for value in logarithms]
    coefficients = tuple(share / sum(shares) for share in shares)
    sole = sole_input(coefficients)
    return SumOf(coefficients) if sole is None else CopyOf(sole)


def _merits(source: TensorSource, metric: Sequence[float], by: By) -> list[float]:
    """Return the logarithms of the weights at a penalty of 1."""
    if by in ("loss", "step") and min(metric) <= 0:
        raise MethodError(f"{source.tensor}: a {by} needs to be positive to weight by; they are {list(metric)}.")
    if by == "exponential":
        return [-value for value in metric]
    if by == "rank":
        # Rank 1 is the smallest; equal ones share the mean of their ranks.
        ordered = sorted(metric)
        return [-math.log(ordered.index(value) + (ordered.count(value) + 1) / 2) for value in metric]
    return [math.log(value) if by == "step" else -math.log(value) for value in metric]


@merge_method(
    operates_on="weights",
    reference="https://arxiv.org/abs/2504.18580",
    prepare=_coefficients,
    gradient=Combination(("penalty",)),
)
def metrics_weighted(weights: Sequence[Tensor], *, prepared: SumOf) -> Tensor:
    """Average of checkpoints, each weighted by its metric raised to the power of `penalty`; 0 is the plain average.

    by: "loss" (1 / metric) ** penalty, "exponential" exp(-penalty * metric), "step" metric ** penalty, "rank"
    (1 / rank) ** penalty with rank 1 for the smallest metric. The paper weights by training loss and by step with
    a single penalty factor; whether its formula is one of these could not be verified.
    """
    return combine(weights, prepared.coefficients)
