"""The data of a report: every number on the page, embedded in it as JSON."""

import shlex
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from evaluators.base import SPLITS
from evomerge.loop import decisions
from evomerge.objective.score import DisplayScore
from evomerge.optimizers.base import OptimizerError
from evomerge.plugins import PluginError
from evomerge.report.html import run_facts
from evomerge.report.html.coefficients import coefficients_data, predicted_coefficients
from evomerge.report.html.headline import headline
from evomerge.report.html.knobs import knobs
from evomerge.report.html.sources import PageSources
from evomerge.report.status import export_command
from evomerge.results.as_json import front_to_dict, identity_to_dict, model_to_dict, predicted_to_dict
from evomerge.results.comparisons import comparisons
from evomerge.results.front import Front
from evomerge.results.history import history
from evomerge.results.importance import importance
from evomerge.results.predicted import Predicted, for_table
from evomerge.results.sampling_error import sampling_error
from evomerge.results.scored import ScoredModel
from evomerge.run import Run

#: Grows when the shape of the object changes.
FORMAT = 3


def document(run: Run, sources: PageSources) -> dict[str, Any]:
    """Return everything that the report of a run shows, as plain data."""
    study, objective = run.study, run.objective
    fronts = {split: run.scored(split) for split in SPLITS}
    result, head = headline(run)
    if result is not None:  # measured as the result is
        fronts["report"] = fronts["report"].shown_by(DisplayScore(objective.by_metric, result.scale))
    wanted = wanted_points(fronts, head["winner"])
    beyond = _predicted(run)
    listed = for_table(beyond)
    compared = _compared(fronts, [point.label for point in wanted])
    return {
        "format": FORMAT,
        "study": run_facts.study_data(run) | {"pareto": objective.pareto},
        "headline": head,
        "points": _on_splits(fronts),
        "fronts": {split: front_to_dict(f) | {"points": len(f.points)} for split, f in fronts.items()},
        "knobs": knobs(study, fronts),
        "predictions": [predicted_to_dict(p, coordinates=False) | {"listed": p in listed} for p in beyond],
        "comparisons": comparisons(fronts, compared, None if result is None else result.baseline),
        "luck": sampling_error(fronts, head["winner"]),
        "progress": history(study, fronts["search"]),
        **run.partial,
        "decisions": list(decisions(study)),
        "coefficients": {
            **coefficients_data(study, sources, [point.number for point in wanted]),
            "predicted": predicted_coefficients(sources, {point.number: point.x for point in (*listed, *beyond)}),
        },
        "importance": _importance(fronts["search"], sources),
        "failures": run_facts.failures(study),
        "truncated": run_facts.truncated(study),
        "cost": run_facts.cost(study),
        "environment": dict(study.environment),
        "configuration": sources.configuration,
        "export": export_command(study.folder.absolute()),
        "pick": f"evomerge pick {shlex.quote(str(study.folder.absolute()))}",
        "commands": run_facts.commands(study, head["winner"]),
    }


def _on_splits(fronts: Mapping[str, Front]) -> list[dict[str, Any]]:
    """Return every model with its scores by split, those on the search front first."""
    found: dict[str, dict[str, Any]] = {}
    for split, front in fronts.items():
        for model in front.points:
            item = found.setdefault(model.label, identity_to_dict(model) | {"splits": {}})
            item["splits"][split] = model_to_dict(front, model)
    return list(found.values())


def _predicted(run: Run) -> tuple[Predicted, ...]:
    try:
        return run.predicted
    except (PluginError, OptimizerError):  # a third-party optimizer that is not installed here
        return ()


def wanted_points(fronts: Mapping[str, Front], winner: str | None) -> list[ScoredModel]:
    """Return every model once: the winner, then the front, finalists and baselines, then by score."""
    found: dict[str, ScoredModel] = {}
    for split in reversed(SPLITS):
        found |= {label: point for label, point in fronts[split].by_label.items() if label not in found}
    choices = {point.label for point in fronts["search"].choices}
    held_out = fronts["report"].by_label.keys() | fronts["select"].by_label.keys()

    def rank(point: ScoredModel) -> tuple[bool, bool, bool, bool, float, int]:
        known = fronts["search"].by_label.get(point.label, point)
        asked = point.label in choices, point.label in held_out, not known.is_candidate
        return (point.label != winner, not asked[0], not asked[1], not asked[2], -known.score.mean, point.number)

    return sorted(found.values(), key=rank)


def _compared(fronts: Mapping[str, Front], labels: Iterable[str]) -> list[str]:
    """Return the labels with comparisons to show: models scored on held-out examples, and the search's front."""
    shown = {point.label for point in fronts["search"].choices}
    for split in ("select", "report"):
        shown |= {point.label for point in fronts[split].points if not point.is_parent}
    return [label for label in labels if label in shown]


def _importance(searched: Front, sources: PageSources) -> dict[str, Any]:
    """Return the importance of coefficients for the score and, if there are several, for every task.

    Where the search chooses from several methods, these are the coefficients of the one with the best candidate.
    """
    own = [point for point in searched.points if point.is_candidate]
    methods = {point.method for point in own}
    if len(methods) > 1:
        best = min(own, key=lambda point: point.rank).method
        own = [point for point in own if point.method == best]
    own = sorted((point for point in own if point.number in sources.tables), key=lambda point: point.number)
    if not own and sources.missing:
        return {"why": sources.missing}
    targets = {"score": np.array([point.score.mean for point in own])}
    if len(searched.tasks) > 1:
        targets |= {f"task {task}": np.array([point.tasks[task].mean for point in own]) for task in searched.tasks}
    return importance([sources.tables[point.number] for point in own], targets, sources.inputs)
