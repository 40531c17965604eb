"""Linear combinations of models: normalizing coefficients, recognizing those that select one model, applying them."""

from collections.abc import Sequence

from torch import Tensor

from evomerge.merging.method import BASE, CopyOf


def normalized(weights: Sequence[float]) -> tuple[float, ...]:
    """Return weights divided by their sum; unchanged if the sum is below 1e-8, as in mergekit for deltas."""
    total = sum(weights)
    return tuple(weight / total for weight in weights) if abs(total) >= 1e-8 else tuple(weights)


def sole_input(coefficients: Sequence[float]) -> int | None:
    """Return the input whose coefficient is 1 while all others are 0, or None."""
    used = [index for index, value in enumerate(coefficients) if value != 0]
    return used[0] if len(used) == 1 and coefficients[used[0]] == 1 else None


def one_model(coefficients: Sequence[float]) -> CopyOf | None:
    """Return the model that a combination of deltas reproduces exactly, the base for all zeros, or None."""
    if not any(coefficients):
        return CopyOf(BASE)
    sole = sole_input(coefficients)
    return None if sole is None else CopyOf(sole)


def combine(models: Sequence[Tensor], coefficients: Sequence[float]) -> Tensor:
    """Sum coefficient times model in the order of the inputs, in the first model's memory."""
    total = models[0].mul_(coefficients[0])
    for model, coefficient in zip(models[1:], coefficients[1:], strict=True):
        total.add_(model, alpha=coefficient)
    return total
