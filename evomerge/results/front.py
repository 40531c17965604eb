"""The front of a study on one split: every scored model, how sure its scores are, and which models no other beats."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from evaluators.base import Scores
from evomerge.objective import FloatArray, Objective
from evomerge.objective.reference import Order, Reference
from evomerge.objective.score import DisplayScore, clusters, task_estimate
from evomerge.results.ranking import Ranking
from evomerge.results.scored import CANDIDATES, Kind, Scored, reruns, scored
from evomerge.statistics import (
    Clusters,
    Estimate,
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


@dataclass(frozen=True, eq=False)
class Point:
    """A model and what it scored on a split.

    number: its trial on the search split, which is what `export --trial` takes. tasks: scores as people read them.
    score: their weighted mean, larger is better (see `DisplayScore`). losses: (n_tasks,). order: sorts points as the
    study's objective does: by how far they break what it keeps, then by what it improves. decisive: the latter as
    people read it, where the worst task decides (see `Objective.decisive`). on_front: no other point is
    at least as good on every task and better on one. probability: how often that holds when examples are drawn anew.
    shrunk: the score that is likely to repeat, for the better half of the candidates of a search; None elsewhere.
    """

    label: str
    number: int
    kind: Kind
    tasks: Mapping[str, Estimate]
    score: Estimate
    losses: FloatArray
    order: Order
    decisive: Mapping[str, float]
    on_front: bool
    probability: float
    shrunk: float | None
    scores: Mapping[str, Scores] = field(repr=False)

    @property
    def is_candidate(self) -> bool:
        """Whether it is a point of the search, and no fixed point of comparison."""
        return self.kind in CANDIDATES

    @property
    def is_merge(self) -> bool:
        """Whether it is a result that one may choose, and none of the models that are merged."""
        return self.kind not in ("parent", "base")


@dataclass(frozen=True, eq=False)
class Front:
    """All points of one split: those on the front first, then the others, each by falling score.

    reference: the best parent on every task. volume_reference: the worst score of the base and the parents on every
    task; hypervolume counts from there on. It is that of all points, of_models that of the base and the parents alone;
    None where none of them is scored.
    examples: task -> how many each was scored on. left_out: models scored on other examples, which are not compared.
    pending: models that are asked for on this split and not scored yet.
    scale: what the tasks' scores count from and to where they are scaled, in words (see `Yardstick.text`).
    optimism: how far the search's lead can be believed; None on other splits. reruns: label -> second scores of what
    was scored twice, which are no point of their own.
    """

    split: str
    objective: Objective
    points: tuple[Point, ...]
    reference: Reference
    examples: Mapping[str, int] = field(default_factory=dict)
    volume_reference: Mapping[str, float] | None = None
    hypervolume: Interval | None = None
    of_models: Interval | None = None
    scale: str = ""
    optimism: Optimism | None = None
    left_out: int = 0
    pending: int = 0
    reruns: Mapping[str, Mapping[str, Scores]] = field(default_factory=dict)

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

    @property
    def preferred(self) -> Point | None:
        """The choice that the study's own objective prefers; of equal ones the earlier trial."""
        return min(self.choices, key=lambda point: (*point.order, point.number), default=None)

    @property
    def knee(self) -> Point | None:
        """The choice that bulges most, see `knee_distances`; None where none lies before the line of the extremes."""
        distances = knee_distances(_losses(self.choices)) if self.choices else np.zeros(0)
        return self.choices[int(np.argmax(distances))] if len(distances) and distances.max() > 1e-9 else None

    @property
    def suggested(self) -> Mapping[str, Point]:
        """`knee` and `preferred`; nothing on the report split, whose examples are held out and choose nothing."""
        named = {} if self.split == "report" else {"knee": self.knee, "preferred": self.preferred}
        return {name: point for name, point in named.items() if point is not None}


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
    ranking = Ranking(study, objective, split)
    models, left_out = scored(study, ranking)
    pending = sum(trial.split == split and trial.origin is not Origin.CANARY for trial in study.pending)
    if not models:
        return Front(split, objective, (), ranking.reference, pending=pending)
    losses = np.stack([objective.by_task(model.scores) for model in models])
    # Per task (n_points, n_examples), larger is better, in the task's own unit.
    examples = [objective.examples(model.scores) for model in models]
    gains = {task: -np.stack([each[n] for each in examples]) for n, task in enumerate(objective.weights)}
    repeats = clusters(models[0].scores)
    few = min(N_RESAMPLES, N_RESAMPLES * MANY_POINTS // len(models))
    means = bootstrap_means(gains, clusters=repeats, n_resamples=few)
    on_front, probabilities = pareto.non_dominated(losses), probability_non_dominated(means)
    curse, shrunk = _optimism(ranking.display_score, models) if split == "search" else (None, {})
    points = [
        Point(
            label=model.label,
            number=model.number,
            kind=model.kind,
            tasks={task: task_estimate(objective, task, scores) for task, scores in model.scores.items()},
            score=ranking.display_score.estimate(model.scores),
            losses=losses[row],
            order=ranking.reference.order(losses[row]),
            decisive=ranking.reference.decisive(losses[row]),
            on_front=bool(on_front[row]),
            probability=float(probabilities[row]),
            shrunk=shrunk.get(model.label),
            scores=model.scores,
        )
        for row, model in enumerate(models)
    ]
    given = np.array([not point.is_merge for point in points])
    volume, of_models, worst = _volumes(gains, repeats, means, losses, given)
    return Front(
        split,
        objective,
        tuple(sorted(points, key=lambda point: (not point.on_front, -point.score.mean, point.number))),
        ranking.reference,
        examples={task: matrix.shape[1] for task, matrix in gains.items()},
        volume_reference=None if worst is None else objective.as_scores(worst),
        hypervolume=volume,
        of_models=of_models,
        scale=ranking.display_score.text,
        optimism=curse,
        left_out=left_out,
        pending=pending,
        reruns=reruns(study, split),
    )


def _optimism(stick: DisplayScore, models: Sequence[Scored]) -> tuple[Optimism | None, dict[str, float]]:
    """The winner's curse among the better half of the candidates, and their shrunk scores by label.

    What a search tried in its first steps spreads far more than what it chose from, and would hide the luck in that.
    """
    candidates = [model for model in models if model.is_candidate]
    ranked = sorted(candidates, key=lambda model: (-stick.score(model.scores), model.number))
    better = ranked[: max(2, (len(ranked) + 1) // 2)]
    if len(better) < 2:
        return None, {}
    parts = [stick.contributions(model.scores) for model in better]
    matrices = {task: np.stack([part[task] for part in parts]) for task in parts[0]}
    found = optimism(matrices, clusters=clusters(models[0].scores))
    return found, {model.label: float(score) for model, score in zip(better, found.shrunk, strict=True)}


def _volumes(
    gains: Mapping[str, FloatArray], repeats: Clusters, means: FloatArray, losses: FloatArray, models: BoolArray
) -> tuple[Interval | None, Interval | None, FloatArray | None]:
    """Hypervolume of all points and of the models alone, and the reference, (n_tasks,), that both count from."""
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


def _losses(points: Sequence[Point]) -> FloatArray:
    return np.stack([point.losses for point in points])
