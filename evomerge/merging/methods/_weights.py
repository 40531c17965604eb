"""Non-negative weights of inputs; an input with weight zero is ignored."""

from collections.abc import Sequence

from evomerge.merging.method import MethodError
from evomerge.merging.tiles import TensorSource


def taking_part(source: TensorSource, weight: Sequence[float]) -> tuple[int, ...]:
    """Return the indices of inputs with non-zero weight. Raises MethodError for a negative weight."""
    if min(weight, default=0.0) < 0:
        raise MethodError(f"{source.tensor}: weights must not be negative here; they are {list(weight)}.")
    return tuple(index for index, value in enumerate(weight) if value > 0)


def in_proportion(source: TensorSource, weight: Sequence[float]) -> tuple[float, ...]:
    """Return weights divided by their sum, or zeros if all are zero. Raises MethodError for a negative weight."""
    total = sum(weight) if taking_part(source, weight) else 1.0
    return tuple(value / total for value in weight)
