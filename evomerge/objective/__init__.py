"""From scores to losses and back to what people read: the objective, its specification, the score shown to people."""

from evomerge.objective.floor import Floor
from evomerge.objective.objective import FloatArray, Kind, NonFiniteScore, NoReference, Objective

__all__ = [
    "FloatArray",
    "Floor",
    "Kind",
    "NoReference",
    "NonFiniteScore",
    "Objective",
]
