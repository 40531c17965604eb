"""Headline of a report: the verdict and a few numbers."""

from typing import Any

from evomerge.report import status
from evomerge.results.as_json import claims_to_list, estimate_to_dict, report_only_to_dict
from evomerge.results.ranking import SelectionError
from evomerge.results.result import Selection
from evomerge.run import Run
from evomerge.trial import UNIFORM


def headline(run: Run) -> tuple[Selection | None, dict[str, Any]]:
    """Return the result and the headline: verdict, held-out score, leads; without a winner, the reason.

    scale: task -> worst and best score that are 0 and 1, where tasks have different units.
    """
    looks = sum(kind == "report_split_read" for kind, _ in run.study.events)
    data: dict[str, Any] = {"winner": None, "origin": "", "score": None, "bought": [], "looks": looks, "scale": {}}
    data |= {"front": [], "claims": []}
    preferred = run.scored().preferred
    data["best"] = None if preferred is None else preferred.label
    try:
        found = run.selection
    except SelectionError as error:
        return None, data | {"verdict": str(error)}
    return found, data | {
        "verdict": found.verdict,
        "winner": found.winner.label,
        "origin": status.origin(run.study, found.winner.label),
        "score": estimate_to_dict(found.models[0].score),
        "bought": _bought(found),
        "scale": {task: list(ends) for task, ends in found.scale.items()},
        "front": list(found.front),
        "claims": claims_to_list(found.claims),
        **report_only_to_dict(found.report_only),
    }


def _bought(found: Selection) -> list[dict[str, Any]]:
    """Return the winner's paired differences to the best-scoring parent, best baseline and uniform average."""
    by_label = {model.label: model for model in found.models}
    parents = [model for model in found.models if model.is_parent]
    rivals = {"best parent": max(parents, key=lambda model: model.score.mean)} if parents else {}
    if found.baseline is not None and found.baseline != UNIFORM:
        rivals["best baseline"] = by_label[found.baseline]
    if UNIFORM in by_label:
        rivals["uniform average"] = by_label[UNIFORM]
    return [
        {"over": over, "label": model.label, **estimate_to_dict(found.leads[model.label])}
        for over, model in rivals.items()
        if model.label in found.leads
    ]
