"""The displayed score: the weighted mean of the tasks, in their units or scaled from 0 (worst) to 1 (best model)."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from evaluators.base import Scores
from evomerge.objective.objective import FloatArray, Objective
from evomerge.statistics import Clusters, Difference, Estimate, clusters_of, difference, estimate


@dataclass(frozen=True)
class DisplayScore:
    """Weighted mean of an objective's tasks for display; larger is better.

    scale: task -> (worst, best) mean of the models compared, which become 0 and 1; empty where tasks keep their unit.
    """

    objective: Objective
    scale: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """Description of the scale: `each task scaled from 0, its worst model, ...`; empty if unscaled."""
        ends = ", ".join(f"{task} {worst:.4g} to {best:.4g}" for task, (worst, best) in self.scale.items())
        return f"each task scaled from 0, its worst model, to 1, its best: {ends}" if ends else ""

    def score(self, scores: Mapping[str, Scores]) -> float:
        """Return the weighted mean. Raises NonFiniteScore."""
        return self.of_means(self.objective.means(scores))

    def of_means(self, means: Mapping[str, float]) -> float:
        """Return the weighted mean from the mean of every task."""
        return float(sum(self._weighted(task, np.array([mean]))[0] for task, mean in means.items()))

    def contributions(self, scores: Mapping[str, Scores]) -> dict[str, FloatArray]:
        """Return every example's contribution to the score by task; the means of the tasks sum to `score`.

        What is measured of the whole model has no sampling error: it moves the examples of the first other task.
        """
        parts = {task: self._weighted(task, scores[task].values) for task in self.objective.weights}
        whole = [task for task in parts if task in self.objective.whole_model]
        if not whole or len(whole) == len(parts):
            return parts
        constant = sum(float(parts.pop(task).mean()) for task in whole)
        first = next(iter(parts))
        return parts | {first: parts[first] + constant}

    @property
    def sizes(self) -> dict[str, float]:
        """Increase of the score per unit of a task's mean, for tasks with examples; negative if less is better."""
        return {task: self._slope(task) for task in self.objective.weights if task not in self.objective.whole_model}

    def sampled(self, scores: Mapping[str, Scores]) -> dict[str, FloatArray]:
        """Return the examples' contributions by task, up to a constant: a score of 0 stays 0."""
        return {task: size * scores[task].values for task, size in self.sizes.items()}

    def estimate(self, scores: Mapping[str, Scores]) -> Estimate:
        """Return the score with its standard error, which is infinite if only whole models are measured."""
        if not self._is_sampled:
            return Estimate(self.score(scores), math.inf, len(self.objective.weights))
        return estimate(
            self.sampled(scores), sizes=self.sizes, constant=self._constant(scores), clusters=clusters(scores)
        )

    def difference(self, a: Mapping[str, Scores], b: Mapping[str, Scores]) -> Difference:
        """Return the paired lead of a's score over b's, with p = 1 if only whole models are measured."""
        lead = self._constant(a) - self._constant(b)
        if not self._is_sampled:
            return Difference(lead, math.inf, len(self.objective.weights), 1.0)
        return difference(self.sampled(a), self.sampled(b), sizes=self.sizes, constant=lead, clusters=clusters(a))

    @property
    def _is_sampled(self) -> bool:
        return not self.objective.weights.keys() <= self.objective.whole_model

    def _slope(self, task: str) -> float:
        """Increase of the score when the mean of a task increases by 1."""
        share = self.objective.weights[task] / sum(self.objective.weights.values())
        if task not in self.scale:
            return share * self.objective.sign(task)
        worst, best = self.scale[task]
        return share / (best - worst) if best != worst else 0.0

    def _constant(self, scores: Mapping[str, Scores]) -> float:
        """Return the constant part of the score: values of whole models, and the offsets of the tasks' scales."""
        whole = [
            float(self._weighted(task, scores[task].values).mean())
            for task in self.objective.weights
            if task in self.objective.whole_model
        ]
        starts = [self._slope(task) * self.scale[task][0] for task in self.sizes if task in self.scale]
        return sum(whole) - sum(starts)

    def _weighted(self, task: str, values: FloatArray) -> FloatArray:
        weights = self.objective.weights
        share = weights[task] / sum(weights.values())
        if task not in self.scale:
            return share * self.objective.sign(task) * values
        worst, best = self.scale[task]
        return share * (values - worst) / (best - worst) if best != worst else np.zeros(len(values))


def display_score(objective: Objective, models: Iterable[Mapping[str, Scores]]) -> DisplayScore:
    """Return the score for these models, scaled where their tasks have different units.

    A mean, and chebyshev's weighted gaps, are in units that the search file's weights have to fit. Elsewhere tasks that
    are not all shares in [0, 1] are scaled, where there are models to scale them over. Raises NonFiniteScore.
    """
    compared = list(models)
    in_units = objective.kind in ("mean", "chebyshev")
    if in_units or not compared or all(are_shares(objective, task, compared) for task in objective.weights):
        return DisplayScore(objective)
    means = [objective.means(scores) for scores in compared]
    scale = {}
    for task in objective.weights:
        column = sorted((mean[task] for mean in means), key=lambda mean: objective.sign(task) * mean)
        scale[task] = (column[0], column[-1])
    return DisplayScore(objective, scale)


def task_estimate(objective: Objective, task: str, scores: Scores) -> Estimate:
    """Return the mean of one task, without a standard error if the examples cannot tell one.

    That is so for one value per model, and for a value other than 0 and 1 that all examples have, such as the length
    at which every text was cut.
    """
    found = np.unique(scores.values[~np.isnan(scores.values)])
    if task in objective.whole_model or (len(found) == 1 and found[0] not in (0.0, 1.0)):
        return Estimate(scores.mean, math.inf, len(scores.values))
    return estimate({task: scores.values}, clusters=clusters({task: scores}))


def task_difference(objective: Objective, task: str, a: Mapping[str, Scores], b: Mapping[str, Scores]) -> Difference:
    """Return the paired lead of a over b on one task, in its unit; positive is better, also if less is better."""
    sign = objective.sign(task)
    values = ({task: sign * model[task].values} for model in (a, b))
    return difference(*values, sizes={task: sign}, clusters=clusters({task: a[task]}))


def clusters(scores: Mapping[str, Scores]) -> Clusters:
    """Return the clusters of duplicate examples by task."""
    return {task: clusters_of(values.example_ids) for task, values in scores.items()}


def are_shares(objective: Objective, task: str, models: Iterable[Mapping[str, Scores]]) -> bool:
    """Return whether a task's values are shares such as accuracies, whose differences are given in points."""
    if task in objective.lower_is_better or task in objective.whole_model:
        return False
    return all(scores[task].is_share for scores in models)
