"""Linear combinations of models: normalizing coefficients, recognizing those that select one model, applying them."""

from collections.abc import Sequence

from torch import Tensor

from evomerge.merging.method import BASE, CopyOf, SumOf


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
    """Sum coefficient times model in the order of the inputs, in the models' memory, the result in the first one's.

    Every product and every sum is rounded: `add_(alpha=)` rounds once where the CPU can, and nowhere else.
    """
    total = models[0].mul_(coefficients[0])
    for model, coefficient in zip(models[1:], coefficients[1:], strict=True):
        total.add_(model.mul_(coefficient))
    return total


def sum_of(weights: Sequence[Tensor], base: Tensor, prepared: SumOf) -> Tensor:
    """Return the sum that a method which operates on weights has prepared, in the memory of the models."""
    if prepared.of == "deltas":
        return combine([model.sub_(base) for model in weights], prepared.coefficients).add_(base)
    return combine([base, *weights] if prepared.of == "base and weights" else weights, prepared.coefficients)
