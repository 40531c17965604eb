"""From scores to losses and back to what people read: the objective, its specification, the score shown to people."""

from evomerge.objective.objective import (
    Fall,
    FloatArray,
    Kind,
    NonFiniteScore,
    NoReference,
    Objective,
    Share,
    allowed,
    fall_data,
    hundredths,
)

__all__ = [
    "Fall",
    "FloatArray",
    "Kind",
    "NoReference",
    "NonFiniteScore",
    "Objective",
    "Share",
    "allowed",
    "fall_data",
    "hundredths",
]
