"""Two models of a study, example by example: where one is better than the other, both ways."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from evomerge.objective.score import task_difference
from evomerge.results.scored import ScoredModel
from evomerge.statistics import Difference


@dataclass(frozen=True)
class Changed:
    """Scores of two models on one task.

    gain: how far the first model is ahead, in the task's unit, positive where it is better also if less is better.
    means: of the first and the second model. better, worse: examples on which the first model is better and worse, the
    largest differences first. values: example -> scores of both. n_examples: examples that both were scored on.
    """

    gain: Difference
    means: tuple[float, float]
    better: tuple[str, ...]
    worse: tuple[str, ...]
    values: Mapping[str, tuple[float, float]]
    n_examples: int


def changed(first: ScoredModel, second: ScoredModel) -> dict[str, Changed]:
    """Compare two models that were scored on one split, by task. Tasks with one value per model have no examples."""
    objective, found = first.objective, {}
    for task in objective.weights:
        mine, theirs = first.scores[task], second.scores[task]
        lead = objective.sign(task) * (mine.values - theirs.values)
        order = np.argsort(-np.abs(lead), kind="stable")
        listed = [(mine.example_ids[row], lead[row]) for row in order if lead[row]]
        whole = task in objective.whole_model
        found[task] = Changed(
            task_difference(objective, task, first.scores, second.scores),
            (mine.mean, theirs.mean),
            () if whole else tuple(name for name, gap in listed if gap > 0),
            () if whole else tuple(name for name, gap in listed if gap < 0),
            dict(zip(mine.example_ids, zip(mine.values.tolist(), theirs.values.tolist(), strict=True), strict=True)),
            len(mine.values),
        )
    return found
