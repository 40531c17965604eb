"""The front of a study on one split: every scored model, how sure its scores are, and which models no other beats."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from evaluators.base import Scores
from evomerge import pareto
from evomerge.objective import FloatArray, NoReference, Objective
from evomerge.records import CANARY
from evomerge.report.scored import Kind, Scored, scored
from evomerge.statistics import (
    Estimate,
    Interval,
    Optimism,
    bootstrap_means,
    estimate,
    hypervolume_interval,
    optimism,
    probability_non_dominated,
)
from evomerge.study import Study

BoolArray = NDArray[np.bool_]

N_RESAMPLES = 2000
#: More points than this are resampled less often, so that no study takes minutes.
MANY_POINTS = 500
#: From this many objectives a volume takes milliseconds, and the interval of one is made of so many of them.
MANY_TASKS, FEW_RESAMPLES = 6, 50


@dataclass(frozen=True, eq=False)
class Point:
    """A model and what it scored on a split.

    number: its trial on the search split, which is what `export --trial` takes. tasks: scores as people read them.
    score: the weighted mean of the study's objective, larger is better. losses: (n_tasks,). on_front: no other point is
    at least as good on every task and better on one. probability: how often that holds when examples are drawn anew.
    shrunk: the score that is likely to repeat, for the better half of the candidates of a search; None elsewhere.
    """

    label: str
    number: int
    kind: Kind
    tasks: Mapping[str, Estimate]
    score: Estimate
    losses: FloatArray
    on_front: bool
    probability: float
    shrunk: float | None
    scores: Mapping[str, Scores] = field(repr=False)

    @property
    def is_merge(self) -> bool:
        """Whether it is a result that one may choose, and none of the models that are merged."""
        return self.kind not in ("parent", "base")


@dataclass(frozen=True, eq=False)
class Front:
    """All points of one split: those on the front first, then the others, each by falling score.

    reference: the worst score of the base and the parents on every task; hypervolume counts from there on. It is that
    of all points, of_models that of the base and the parents alone; None where none of them is scored.
    examples: task -> how many each was scored on. left_out: models scored on other examples, which are not compared.
    pending: models that are asked for on this split and not scored yet.
    optimism: how far the search's lead can be believed; None on other splits.
    """

    split: str
    objective: Objective
    points: tuple[Point, ...]
    examples: Mapping[str, int] = field(default_factory=dict)
    reference: Mapping[str, float] | None = None
    hypervolume: Interval | None = None
    of_models: Interval | None = None
    optimism: Optimism | None = None
    left_out: int = 0
    pending: int = 0

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks, in the order of the search file."""
        return tuple(self.objective.weights)

    @property
    def models(self) -> tuple[Point, ...]:
        """The base and the parents."""
        return tuple(point for point in self.points if not point.is_merge)

    @cached_property
    def choices(self) -> tuple[Point, ...]:
        """The merges that no other merge beats, by trial number: among them a choice is made."""
        merges = sorted((point for point in self.points if point.is_merge), key=lambda point: point.number)
        if not merges:
            return ()
        kept = pareto.non_dominated(_losses(merges))
        return tuple(point for point, keep in zip(merges, kept, strict=True) if keep)

    @cached_property
    def best_models(self) -> FloatArray | None:
        """The smallest loss of the base and the parents on every task, (n_tasks,); None without any of them."""
        return _losses(self.models).min(axis=0) if self.models else None

    @property
    def preferred(self) -> Point | None:
        """The choice that the study's own objective prefers; of equal ones the earlier trial."""
        return self.choices[int(np.argmin(self.preference()))] if self.choices else None

    @property
    def knee(self) -> Point | None:
        """The choice that bulges most, see `knee_distances`; None where none lies before the line of the extremes."""
        distances = knee_distances(_losses(self.choices)) if self.choices else np.zeros(0)
        return self.choices[int(np.argmax(distances))] if len(distances) and distances.max() > 1e-9 else None

    def preference(self) -> FloatArray:
        """What the study's objective makes of each choice, (n_choices,); smaller is better.

        `pareto` weighs the tasks by their weights; limits of the objective count. Where it cannot be told from the
        parents it is the weighted mean.
        """
        mean = replace(self.objective, kind="mean")
        asked = mean if self.objective.pareto else self.objective
        if self.best_models is not None:
            try:
                return np.array([asked.against(point.losses, self.best_models)[0] for point in self.choices])
            except NoReference:
                pass
        return np.array([point.losses @ mean.shares for point in self.choices])


def knee_distances(losses: FloatArray) -> FloatArray:
    """How far each point of a front lies before the plane of the extremes, (n_points,), in ranges of the front.

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
    """All that was scored on a split, compared; without points for a split on which nothing was scored yet."""
    models, left_out = scored(study, objective, split)
    pending = sum(trial.split == split and trial.label != CANARY for trial in study.pending)
    if not models:
        return Front(split, objective, (), pending=pending)
    losses = np.stack([objective.by_task(model.scores) for model in models])
    # Per task (n_points, n_examples), larger is better, in the task's own unit.
    examples = [objective.examples(model.scores) for model in models]
    gains = {task: -np.stack([each[n] for each in examples]) for n, task in enumerate(objective.weights)}
    means = bootstrap_means(gains, n_resamples=min(N_RESAMPLES, N_RESAMPLES * MANY_POINTS // len(models)))
    on_front, probabilities = pareto.non_dominated(losses), probability_non_dominated(means)
    curse, shrunk = _optimism(objective, models) if split == "search" else (None, {})
    points = [
        Point(
            model.label,
            model.number,
            model.kind,
            {task: estimate({task: scores.values}) for task, scores in model.scores.items()},
            estimate(objective.contributions(model.scores)),
            losses[row],
            bool(on_front[row]),
            float(probabilities[row]),
            shrunk.get(model.label),
            model.scores,
        )
        for row, model in enumerate(models)
    ]
    given = np.array([not point.is_merge for point in points])
    volume, of_models, reference = _volumes(gains, means, losses, given, on_front | (probabilities > 0))
    return Front(
        split,
        objective,
        tuple(sorted(points, key=lambda point: (not point.on_front, -point.score.mean, point.number))),
        {task: matrix.shape[1] for task, matrix in gains.items()},
        None if reference is None else as_scores(objective, reference),
        volume,
        of_models,
        curse,
        left_out,
        pending,
    )


def as_scores(objective: Objective, losses: FloatArray) -> dict[str, float]:
    """Task means as people read them, from losses by task (n_tasks,)."""
    return {task: float(-objective.sign(task) * loss) for task, loss in zip(objective.weights, losses, strict=True)}


def _optimism(objective: Objective, models: Sequence[Scored]) -> tuple[Optimism | None, dict[str, float]]:
    """The winner's curse among the better half of the candidates, and their shrunk scores by label.

    What a search tried in its first steps spreads far more than what it chose from, and would hide the luck in that.
    """
    candidates = [model for model in models if model.is_candidate]
    ranked = sorted(candidates, key=lambda model: (-objective.score(objective.means(model.scores)), model.number))
    better = ranked[: max(2, (len(ranked) + 1) // 2)]
    if len(better) < 2:
        return None, {}
    parts = [objective.contributions(model.scores) for model in better]
    found = optimism({task: np.stack([part[task] for part in parts]) for task in objective.weights})
    return found, {model.label: float(score) for model, score in zip(better, found.shrunk, strict=True)}


def _volumes(
    gains: Mapping[str, FloatArray], means: FloatArray, losses: FloatArray, models: BoolArray, counts: BoolArray
) -> tuple[Interval | None, Interval | None, FloatArray | None]:
    """Hypervolume of all points and of the models alone, and the reference, (n_tasks,), that both count from.

    counts: the points that are ever on a front; the others add to no volume.
    """
    if not models.any():
        return None, None, None
    reference = losses[models].max(axis=0)
    drawn = means[:FEW_RESAMPLES] if means.shape[2] >= MANY_TASKS else means

    def volume(rows: BoolArray) -> Interval:
        part = {task: matrix[rows] for task, matrix in gains.items()}
        return hypervolume_interval(part, drawn[:, rows], reference)

    return volume(counts), volume(models), reference


def _losses(points: Sequence[Point]) -> FloatArray:
    return np.stack([point.losses for point in points])
