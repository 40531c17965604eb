"""How a search went on: scores in the order of finishing, the best so far, the hypervolume so far, against its cost."""

from typing import Any

import numpy as np

from evomerge.objective import Objective
from evomerge.report.html.numbers import by_label, number
from evomerge.results.front import Front
from evomerge.statistics import pareto
from evomerge.study import Entry, Study
from evomerge.trial import Origin

#: The canary of older studies scored two points on all examples; today's reads a few of them, and counts nothing.
CANARY_COST = 2.0


def progress(study: Study, objective: Objective, front: Front) -> dict[str, Any]:
    """Columns with one item per trial of the search split, in the order of finishing.

    seconds: that the search had run when it ended. evaluations: how many times the whole search split
    was scored so far, failed trials counted whole. best: the score of the best merge so far, baselines included;
    leader: its trial. hypervolume: of all points so far, baselines too, from the worst of the models on; only where
    every task is an objective.
    """
    points = by_label(front)
    numbers = {point.number: point for point in points.values()}
    examples = sum(front.examples.values())
    told = [entry for entry in study.told if entry.trial.split == "search"]
    names = ("number", "label", "evaluations", "seconds", "score", "best", "leader")
    rows: dict[str, list[Any]] = {name: [] for name in names}
    spent, best = 0.0, None
    for entry in told:
        spent += _cost(entry, examples)
        point = None if entry.trial.origin is Origin.CANARY else numbers.get(entry.trial.number)
        if point is not None and point.is_merge and (best is None or point.order < best.order):
            best = point
        rows["number"].append(entry.trial.number)
        rows["label"].append(None if point is None else point.label)
        rows["evaluations"].append(spent)
        rows["seconds"].append(entry.active)
        rows["score"].append(None if point is None else number(point.score.mean))
        rows["best"].append(None if best is None else number(best.score.mean))
        rows["leader"].append(None if best is None else best.number)
    return {**rows, "hypervolume": _hypervolume(front, rows["label"]) if objective.pareto else None}


def _cost(entry: Entry, examples: int) -> float:
    if entry.trial.origin is Origin.CANARY:
        return CANARY_COST if entry.outcome is not None and entry.outcome.scores else 0.0
    if entry.outcome is None or not entry.outcome.scores or not examples:
        return 1.0
    if not entry.outcome.seconds:  # a copy of the scores of the same model
        return 0.0
    return sum(int(np.isfinite(scores.values).sum()) for scores in entry.outcome.scores.values()) / examples


def _hypervolume(front: Front, labels: list[str | None]) -> list[float] | None:
    """After each trial; None without the models that the reference comes from."""
    if front.volume_reference is None:
        return None
    differs = pareto.differing(np.stack([point.losses for point in front.points]))
    if not differs.any():
        return [0.0] * len(labels)
    reference = np.stack([model.losses for model in front.models]).max(axis=0)[differs]
    losses = {label: point.losses[differs] for label, point in by_label(front).items()}
    kept = np.empty((0, len(reference)))
    volumes = [0.0]
    for label in labels:
        if label is None or (kept <= losses[label]).all(axis=1).any():
            volumes.append(volumes[-1])
            continue
        kept = np.vstack([kept, losses[label]])
        kept = kept[pareto.non_dominated(kept)]
        volumes.append(pareto.hypervolume(kept, reference))
    return volumes[1:]
