"""Front of a study on one split: all scored models, which are non-dominated, and how certain that is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from evaluators.base import Scores
from evomerge.objective import FloatArray, Objective
from evomerge.objective.reference import Reference
from evomerge.objective.score import DisplayScore, clusters
from evomerge.results.ranking import Ranking, best, losses_of, non_dominated
from evomerge.results.scored import ScoredModel, reruns
from evomerge.statistics import (
    Clusters,
    Interval,
    Optimism,
    bootstrap_means,
    hypervolume_interval,
    optimism,
    pareto,
    probability_non_dominated,
)
from evomerge.study import Study
from evomerge.trial import Origin

BoolArray = NDArray[np.bool_]

N_RESAMPLES = 2000
#: More points than this are resampled less often, so that no study takes minutes.
MANY_POINTS = 500
#: How many volumes the interval of one is made of; from MANY_TASKS on, where one takes milliseconds, fewer.
N_VOLUMES, FEW_VOLUMES, MANY_TASKS = 500, 40, 6


@dataclass(frozen=True, eq=False, repr=False)
class Front:
    """All models of one split: the front first, then the others, each in order of decreasing score.

    Args:
        split: "search", "select" or "report".
        points: The models.
        reference: The best parent on every task.
        on_front: Labels of the models than which no other is at least as good on every task and better on one.
        probability: Label -> how often that holds when examples are drawn anew.
        shrunk: Label -> the score that is likely to repeat, for the better half of the candidates of a search.
        examples: Task -> how many examples each was scored on.
        volume_reference: The worst score of the base and the parents on every task; hypervolume counts from there on.
        hypervolume: Of all models; None where neither the base nor a parent is scored.
        of_models: Of the base and the parents alone.
        optimism: How far the search's lead can be believed; None on other splits.
        left_out: How many models were scored on other examples, and are not compared.
        pending: Number of models submitted on this split and not scored yet.
        reruns: Label -> second scores of what was scored twice, which are no point of their own.
    """

    split: str
    points: tuple[ScoredModel, ...]
    reference: Reference
    on_front: frozenset[str] = frozenset()
    probability: Mapping[str, float] = field(default_factory=dict)
    shrunk: Mapping[str, float] = field(default_factory=dict)
    examples: Mapping[str, int] = field(default_factory=dict)
    volume_reference: Mapping[str, float] | None = None
    hypervolume: Interval | None = None
    of_models: Interval | None = None
    optimism: Optimism | None = None
    left_out: int = 0
    pending: int = 0
    reruns: Mapping[str, Mapping[str, Scores]] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"Front(split={self.split!r}, {len(self.on_front)} of {len(self.points)} models non-dominated)"

    @property
    def objective(self) -> Objective:
        """The objective of the search."""
        return self.reference.objective

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks, in the order of the search file."""
        return tuple(self.objective.weights)

    @cached_property
    def by_label(self) -> Mapping[str, ScoredModel]:
        """Models by label."""
        return {point.label: point for point in self.points}

    def numbered(self, number: int) -> ScoredModel | None:
        """Return the model with a trial number on the search split; None without one."""
        return next((point for point in self.points if point.number == number), None)

    @property
    def parents(self) -> tuple[ScoredModel, ...]:
        """The base and the parents."""
        return tuple(point for point in self.points if point.is_parent)

    @property
    def best_parent(self) -> ScoredModel | None:
        """The base or parent with the best score."""
        return max(self.parents, key=lambda point: (point.score.mean, -point.number), default=None)

    @cached_property
    def choices(self) -> tuple[ScoredModel, ...]:
        """The merges that no other merge dominates, by trial number, from which one is picked."""
        merges = sorted((point for point in self.points if not point.is_parent), key=lambda point: point.number)
        return tuple(non_dominated(merges))

    @property
    def preferred(self) -> ScoredModel | None:
        """The choice that the study's own objective ranks first."""
        return best(self.choices)

    @property
    def knee(self) -> ScoredModel | None:
        """The choice farthest from the plane of the extremes, see `knee_distances`; None if no point bulges."""
        distances = knee_distances(losses_of(self.choices)) if self.choices else np.zeros(0)
        return self.choices[int(np.argmax(distances))] if len(distances) and distances.max() > 1e-9 else None

    @property
    def suggested(self) -> Mapping[str, ScoredModel]:
        """The choices by name, `knee` and `preferred`; empty on the report split, which must not select."""
        named = {} if self.split == "report" else {"knee": self.knee, "preferred": self.preferred}
        return {name: point for name, point in named.items() if point is not None}

    def shown_by(self, display: DisplayScore) -> "Front":
        """Return the front with another display score."""
        points = tuple(point.shown_by(display) for point in self.points)
        return replace(self, points=points, reference=replace(self.reference, display=display))


def knee_distances(losses: FloatArray) -> FloatArray:
    """Return each point's distance from the plane through the extremes, (n_points,), in ranges of the front.

    losses: (n_points, n_objectives). Every objective is scaled to [0, 1]; the plane goes through the points that are
    best in one objective and worst in all others: with two, it is the line between the extremes. The knee is the point
    farthest from it towards the ideal. Das (1999), https://doi.org/10.1007/BF01195985
    """
    low, high = losses.min(axis=0), losses.max(axis=0)
    wide = high > low
    if wide.sum() < 2:
        return np.zeros(len(losses))
    scaled = (losses[:, wide] - low[wide]) / (high - low)[wide]
    distances: FloatArray = (wide.sum() - 1 - scaled.sum(axis=1)) / np.sqrt(wide.sum())
    return distances


def front(study: Study, objective: Objective, split: str = "search") -> Front:
    """Compare all models scored on a split; without points if there are none."""
    ranking = Ranking(study, objective, split)
    models = sorted(ranking.models, key=lambda model: model.trial.number)
    pending = sum(trial.split == split and trial.origin is not Origin.CANARY for trial in study.pending)
    if not models:
        return Front(split, (), ranking.reference, pending=pending)
    losses = losses_of(models)
    # Per task (n_points, n_examples), larger is better, in the task's own unit.
    examples = [objective.examples(model.scores) for model in models]
    gains = {task: -np.stack([each[n] for each in examples]) for n, task in enumerate(objective.weights)}
    repeats = clusters(models[0].scores)
    few = min(N_RESAMPLES, N_RESAMPLES * MANY_POINTS // len(models))
    means = bootstrap_means(gains, clusters=repeats, n_resamples=few)
    on_front = frozenset(model.label for model in non_dominated(models))
    chances = zip(models, probability_non_dominated(means), strict=True)
    curse, shrunk = _optimism(ranking.candidates) if split == "search" else (None, {})
    volume, of_models, worst = _volumes(gains, repeats, means, losses, np.array([m.is_parent for m in models]))
    return Front(
        split,
        tuple(sorted(models, key=lambda model: (model.label not in on_front, -model.score.mean, model.number))),
        ranking.reference,
        on_front,
        probability={model.label: float(chance) for model, chance in chances},
        shrunk=shrunk,
        examples={task: matrix.shape[1] for task, matrix in gains.items()},
        volume_reference=None if worst is None else objective.as_scores(worst),
        hypervolume=volume,
        of_models=of_models,
        optimism=curse,
        left_out=ranking.left_out,
        pending=pending,
        reruns=reruns(study, objective, split),
    )


def _optimism(candidates: Sequence[ScoredModel]) -> tuple[Optimism | None, dict[str, float]]:
    """Return the selection optimism among the better half of the candidates, and their shrunk scores by label.

    What a search tried in its first steps spreads far more than what it chose from, and would hide its optimism.
    """
    by_score = sorted(candidates, key=lambda model: (-model.score.mean, model.number))
    better = by_score[: max(2, (len(by_score) + 1) // 2)]
    if len(better) < 2:
        return None, {}
    parts = [model.reference.display.contributions(model.scores) for model in better]
    matrices = {task: np.stack([part[task] for part in parts]) for task in parts[0]}
    found = optimism(matrices, clusters=clusters(better[0].scores))
    return found, {model.label: float(score) for model, score in zip(better, found.shrunk, strict=True)}


def _volumes(
    gains: Mapping[str, FloatArray], repeats: Clusters, means: FloatArray, losses: FloatArray, models: BoolArray
) -> tuple[Interval | None, Interval | None, FloatArray | None]:
    """Return the hypervolumes of all points and of base and parents alone, and their reference point, (n_tasks,)."""
    if not models.any():
        return None, None, None
    reference = losses[models].max(axis=0)
    differs = pareto.differing(losses)
    if not differs.any():
        return None, None, reference
    drawn = means[: FEW_VOLUMES if means.shape[2] >= MANY_TASKS else N_VOLUMES, :, differs]
    every = {task: matrix for (task, matrix), kept in zip(gains.items(), differs, strict=True) if kept}
    alone = {task: matrix[models] for task, matrix in every.items()}
    return (
        hypervolume_interval(every, drawn, reference[differs], clusters=repeats),
        hypervolume_interval(alone, drawn[:, models], reference[differs], clusters=repeats),
        reference,
    )
