"""Scored models without a study, from the means of their tasks."""

from collections.abc import Mapping

import numpy as np

from evaluators.base import Scores
from evomerge.objective import Objective
from evomerge.objective.reference import Reference
from evomerge.objective.score import DisplayScore
from evomerge.results.scored import Kind, ScoredModel
from evomerge.trial import Origin, Trial, number_in

#: Label -> task -> mean.
Rows = Mapping[str, Mapping[str, float]]


def scored_models(
    objective: Objective, rows: Rows, *, spread: float = 0.0, n_examples: int = 100, display: DisplayScore | None = None
) -> list[ScoredModel]:
    """Models that were scored together: half of the examples lie `spread` above the mean of their task, half below.

    `trial:N` is a point of the search, trial N; the other models have their places here for numbers.
    """
    sides = np.where(np.arange(n_examples) % 2, 1.0, -1.0)
    ids = tuple(f"{n:016x}" for n in range(n_examples))
    found = {
        label: {task: Scores(ids, mean + spread * sides) for task, mean in means.items()}
        for label, means in rows.items()
    }
    parents = [objective.by_task(scores) for label, scores in found.items() if Origin.of(label).is_parent]
    reference = Reference.of(objective, parents, display)
    return [
        ScoredModel(label, number, _kind(label), Trial(number, None, label=label), scores, reference)
        for place, (label, scores) in enumerate(found.items())
        for number in [number_in(label) or place]
    ]


def _kind(label: str) -> Kind:
    origin = Origin.of(label)
    if origin is Origin.BASE:
        return "base"
    return "parent" if origin is Origin.PARENT else "average" if origin is Origin.BASELINE else "candidate"
