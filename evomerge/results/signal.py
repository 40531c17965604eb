"""Signal-to-noise ratio of tasks (Heineman et al., 2025). https://arxiv.org/abs/2508.13144

A task whose examples tell the parents and baselines apart no better than chance cannot guide a search. Noise is the
standard error of a score over its examples here; in the paper it is the spread over the last checkpoints of a training.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evaluators.base import Scores
from evomerge.objective import Objective
from evomerge.objective.score import task_estimate

#: Below this ratio, the differences between models are smaller than the standard error of one score.
LEAST = 1.0


@dataclass(frozen=True)
class Signal:
    """Spread and noise of the scores of some models on one task.

    Args:
        spread: Largest difference of two models' means, in the task's unit.
        noise: Root mean square of the standard errors of the means.
        mean: Mean of the models' means.
        models: Number of models.
    """

    spread: float
    noise: float
    mean: float
    models: int

    @property
    def ratio(self) -> float:
        """The spread over the noise, both relative to the same mean; infinite without noise."""
        if self.noise > 0:
            return self.spread / self.noise
        return math.inf if self.spread > 0 else 0.0

    def relative(self, value: float) -> float | None:
        """Return a value as a share of the mean; None if the mean is 0."""
        return value / abs(self.mean) if self.mean else None


def signals(objective: Objective, models: Iterable[Mapping[str, Scores]]) -> dict[str, Signal]:
    """Return the signal of every task on one split.

    models: task -> scores, of parents and baselines. Tasks with one value per model are missing, and all tasks if there
    are fewer than two models.
    """
    compared = list(models)
    found = {}
    for task in objective.weights:
        if task not in objective.whole_model and len(compared) > 1:
            estimates = [task_estimate(objective, task, scores[task]) for scores in compared]
            means = np.array([each.mean for each in estimates])
            errors = [each.standard_error for each in estimates if math.isfinite(each.standard_error)]
            if errors:
                noise = float(np.sqrt(np.mean(np.square(errors))))
                found[task] = Signal(float(np.ptp(means)), noise, float(means.mean()), len(compared))
    return found


def signals_to_list(objective: Objective, models: Sequence[Mapping[str, Scores]]) -> list[dict[str, Any]]:
    """Return the signal of every task as plain data; `metric_ratio` where the search follows a smooth score."""
    by_metric = signals(
        objective.by_metric,
        [{task: found.by_metric for task, found in scores.items()} for scores in models] if objective.smooth else [],
    )
    rows = []
    for task, signal in signals(objective, models).items():
        own = by_metric.get(task) if task in objective.smooth else None
        rows.append(
            {
                "task": task,
                "models": signal.models,
                "spread": signal.spread,
                "noise": signal.noise,
                "signal": signal.relative(signal.spread),
                "relative_noise": signal.relative(signal.noise),
                "ratio": signal.ratio if math.isfinite(signal.ratio) else None,
                "metric_ratio": None if own is None or not math.isfinite(own.ratio) else own.ratio,
            }
        )
    return rows


def weak(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return a warning about each task whose ratio is below 1."""
    return [
        f"task {row['task']!r}: the largest difference between parents and baselines, {row['spread']:.2g}, is smaller "
        f"than the standard error of one score, {row['noise']:.2g}, so the search cannot follow it: add examples, use "
        "a smooth `score` if it is multiple choice, or remove the task"
        for row in rows
        if row["ratio"] is not None and row["ratio"] < LEAST
    ]
