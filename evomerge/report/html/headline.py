"""What a study has come to, in one sentence and a few numbers."""

from typing import Any

from evomerge.report import status
from evomerge.report.html.numbers import difference_data, estimate_data
from evomerge.results import Selection, SelectionError
from evomerge.results.front import Front
from evomerge.run import Run
from evomerge.trial import UNIFORM, Origin


def headline(run: Run) -> tuple[Selection | None, dict[str, Any]]:
    """The result, and: verdict, the winner's held-out score and its lead; without a winner, why there is none.

    scale: task -> worst and best score that are 0 and 1, where tasks have different units.
    """
    looks = sum(kind == "report_split_read" for kind, _ in run.study.events)
    data: dict[str, Any] = {"winner": None, "origin": "", "score": None, "bought": [], "looks": looks, "scale": {}}
    data |= {"front": [], "claims": []}
    data["best"] = _best_so_far(run.scored())
    try:
        found = run.selection
    except SelectionError as error:
        return None, data | {"verdict": str(error)}
    return found, data | {
        "verdict": found.verdict,
        "winner": found.winner.label,
        "origin": status.origin(run.study, found.winner.label),
        "score": estimate_data(found.standings[0].score),
        "bought": _bought(found),
        "scale": {task: list(ends) for task, ends in found.scale.items()},
        "front": list(found.front),
        "claims": [
            {"task": claim.task, "rival": claim.parent, **difference_data(claim.gain), "holm": claim.p}
            for claim in found.claims
        ],
    }


def _bought(found: Selection) -> list[dict[str, Any]]:
    """Paired differences of the winner to the best parent, the best baseline and the uniform average."""
    parents = [standing for standing in found.standings if Origin.of(standing.label).is_parent]
    rivals = {}
    if parents:
        rivals["best parent"] = max(parents, key=lambda standing: standing.score.mean)
    by_label = {standing.label: standing for standing in found.standings}
    if found.baseline is not None and found.baseline != UNIFORM:
        rivals["best baseline"] = by_label[found.baseline]
    if UNIFORM in by_label:
        rivals["uniform average"] = by_label[UNIFORM]
    return [
        {"over": over, "label": standing.label, **difference_data(standing.behind)}
        for over, standing in rivals.items()
        if standing.behind is not None
    ]


def _best_so_far(front: Front) -> str | None:
    merges = [point for point in front.points if point.is_merge]
    return min(merges, key=lambda point: (*point.order, point.number)).label if merges else None
