"""Paired comparisons of merges with the best parent, the best baseline and the uniform average, task by task."""

from collections.abc import Iterable, Mapping
from typing import Any

from evomerge.objective.score import task_difference
from evomerge.results.as_json import estimate_to_dict
from evomerge.results.front import Front
from evomerge.results.scored import ScoredModel
from evomerge.statistics import Difference, holm
from evomerge.trial import UNIFORM

#: The splits on which a point is compared, the most trustworthy first.
ORDER = ("report", "select", "search")


def comparisons(fronts: Mapping[str, Front], labels: Iterable[str], baseline: str | None) -> dict[str, dict[str, Any]]:
    """Label -> its comparisons, on the most trustworthy split that it was scored on.

    fronts: split -> front. baseline: the best one, where a winner was chosen.

    Differences are turned so that above 0 is better. `p_holm`: p adjusted for all claims made about this one point.
    """
    rivals = _rivals(fronts, baseline)
    found = {}
    for label in labels:
        split = next((split for split in ORDER if label in fronts[split].by_label), None)
        if split is not None:
            points = fronts[split].by_label
            others = [points[rival] for rival in rivals if rival in points and rival != label]
            found[label] = {"split": split, "claims": _claims(points[label], others)}
    return found


def _rivals(fronts: Mapping[str, Front], baseline: str | None) -> list[str]:
    best = next((found for split in ORDER if (found := fronts[split].best_parent) is not None), None)
    named = (None if best is None else best.label, baseline, UNIFORM)
    return list(dict.fromkeys(label for label in named if label is not None))


def _claims(point: ScoredModel, rivals: list[ScoredModel]) -> list[dict[str, Any]]:
    """One per rival and score or task, where `task` is null for the score; one value per model allows no claim."""
    objective, display = point.objective, point.reference.display
    made: dict[tuple[str, str | None], Difference] = {}
    for rival in rivals:
        made[rival.label, None] = display.difference(point.scores, rival.scores)
        by_task = len(objective.weights) > 1  # the score of one task says it all
        for task in (task for task in objective.weights if by_task and task not in objective.whole_model):
            made[rival.label, task] = task_difference(objective, task, point.scores, rival.scores)
    adjusted = holm({str(n): value.p for n, value in enumerate(made.values())})
    return [
        {"rival": rival, "task": task, **estimate_to_dict(value), "p_holm": adjusted[str(n)]}
        for n, ((rival, task), value) in enumerate(made.items())
    ]
