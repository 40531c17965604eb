"""How a search went on: scores in the order of finishing, the best merge and the hypervolume so far, against cost."""

from typing import Any

import numpy as np

from evomerge.objective import Objective
from evomerge.results.as_json import number
from evomerge.results.front import Front
from evomerge.results.ranking import losses_of
from evomerge.search_examples import SearchExamples
from evomerge.statistics import pareto
from evomerge.study import Entry, Study
from evomerge.trial import Origin

#: The canary of older studies scored two points on all examples; today's reads a few of them, and counts nothing.
CANARY_COST = 2.0


def history(study: Study, front: Front) -> dict[str, Any]:
    """Columns with one item per whole trial of the search split, in the order of finishing.

    front: of the search split. seconds: that the search had run when it ended. evaluations: how many times the whole
    search split was scored so far, failed trials counted whole, parts of candidates included. best: the score of the
    best merge so far, baselines included; leader: its trial. hypervolume: of all points so far, baselines too, from the
    worst of the models on; only where every task is an objective.
    """
    models = {point.number: point for point in front.points}
    spent = spent_after(study, front.objective)
    told = [entry for entry in study.told if entry.trial.split == "search"]
    names = ("number", "label", "evaluations", "seconds", "score", "best", "leader")
    rows: dict[str, list[Any]] = {name: [] for name in names}
    best = None
    for entry in told:
        point = None if entry.trial.origin is Origin.CANARY else models.get(entry.trial.number)
        if point is not None and not point.is_parent and (best is None or point.rank < best.rank):
            best = point
        rows["number"].append(entry.trial.number)
        rows["label"].append(None if point is None else point.label)
        rows["evaluations"].append(spent[entry.trial.number])
        rows["seconds"].append(entry.active)
        rows["score"].append(None if point is None else number(point.score.mean))
        rows["best"].append(None if best is None else number(best.score.mean))
        rows["leader"].append(None if best is None else best.number)
    return {**rows, "hypervolume": _hypervolume(front, rows["label"]) if front.objective.pareto else None}


def spent_after(study: Study, objective: Objective) -> dict[int, float]:
    """Return the evaluations spent when each trial of the search split ended, parts included, by its number."""
    examples = SearchExamples.of_study(study, objective.weights)
    n_examples = 0 if examples is None else examples.total
    found, spent = dict[int, float](), 0.0
    for entry in study.ended:
        if entry.trial.split == "search":
            spent += _cost(entry, n_examples)
            found[entry.trial.number] = spent
    return found


def _cost(entry: Entry, examples: int) -> float:
    if entry.trial.is_part or entry.trial.extends is not None:
        return entry.trial.cost
    if entry.trial.origin is Origin.CANARY:
        return CANARY_COST if entry.outcome is not None and entry.outcome.scores else 0.0
    if entry.outcome is None or not entry.outcome.scores or not examples:
        return 1.0
    if not entry.outcome.seconds:  # a copy of the scores of the same model
        return 0.0
    return sum(int(np.isfinite(scores.values).sum()) for scores in entry.outcome.scores.values()) / examples


def _hypervolume(front: Front, labels: list[str | None]) -> list[float] | None:
    """Return the hypervolume after each trial; None without the models that define the reference point."""
    if front.volume_reference is None:
        return None
    differs = pareto.differing(losses_of(front.points))
    if not differs.any():
        return [0.0] * len(labels)
    reference = losses_of(front.parents).max(axis=0)[differs]
    losses = {point.label: point.losses[differs] for point in front.points}
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
