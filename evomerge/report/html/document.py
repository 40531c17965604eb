"""The one object behind a report: every number on the page is in it, and it travels with the page as JSON."""

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from evaluators.base import SPLITS
from evomerge.objective import Objective
from evomerge.objective.score import DisplayScore, display_score
from evomerge.optimizers.base import OptimizerError
from evomerge.plugins import PluginError
from evomerge.report.html import running
from evomerge.report.html.coefficients import coefficients_data, predicted_coefficients
from evomerge.report.html.comparisons import comparisons
from evomerge.report.html.headline import headline
from evomerge.report.html.importance import importance
from evomerge.report.html.luck import luck
from evomerge.report.html.material import Material
from evomerge.report.html.numbers import by_label
from evomerge.report.html.points import front_data, points_data, predictions_data
from evomerge.report.html.progress import progress
from evomerge.report.status import export_command
from evomerge.results import Selection
from evomerge.results.front import Front, Point
from evomerge.results.predicted import Predicted, for_table
from evomerge.run import Run

#: Grows when the shape of the object changes.
FORMAT = 2


def document(run: Run, material: Material) -> dict[str, Any]:
    """Everything that a report of the run says, as plain data."""
    study, objective = run.study, run.objective
    fronts = {split: run.scored(split) for split in SPLITS}
    result, head = headline(run)
    sticks = _yardsticks(objective, fronts, result)
    fronts["report"] = _measured(fronts["report"], sticks["report"])
    wanted = wanted_points(fronts, head["winner"])
    labels = [point.label for point in wanted]
    beyond = _predicted(run)
    return {
        "format": FORMAT,
        "study": running.study_data(run) | {"pareto": objective.pareto},
        "headline": head,
        "points": points_data(fronts),
        "fronts": {split: front_data(found) for split, found in fronts.items()},
        "predictions": predictions_data(beyond),
        "progress": progress(study, objective, fronts["search"]),
        "coefficients": {
            **coefficients_data(study, material, [point.number for point in wanted]),
            "predicted": predicted_coefficients(
                material, {point.number: point.x for point in (*for_table(beyond), *beyond)}
            ),
        },
        "importance": _importance(objective, fronts["search"], material),
        "comparisons": comparisons(
            sticks, fronts, _compared(fronts, labels), None if result is None else result.baseline
        ),
        "luck": luck(sticks, fronts, head["winner"]),
        "failures": running.failures(study),
        "truncated": running.truncated(study),
        "cost": running.cost(study),
        "environment": dict(study.environment),
        "configuration": material.configuration,
        "export": export_command(study.folder.absolute()),
        "pick": f"evomerge pick {shlex.quote(str(study.folder.absolute()))}",
        "commands": running.commands(study, head["winner"]),
    }


def _yardsticks(objective: Objective, fronts: Mapping[str, Front], result: Selection | None) -> dict[str, DisplayScore]:
    """Split -> what its scores are measured with; the report split is measured as the result is."""
    sticks = {
        split: display_score(objective, [point.scores for point in found.points]) for split, found in fronts.items()
    }
    return sticks | ({"report": DisplayScore(objective, result.scale)} if result is not None else {})


def _measured(found: Front, stick: DisplayScore) -> Front:
    """The same front with the scores that `stick` gives."""
    points = (replace(point, score=stick.estimate(point.scores)) for point in found.points)
    return replace(found, points=tuple(points))


def _predicted(run: Run) -> tuple[Predicted, ...]:
    try:
        return run.predicted
    except (PluginError, OptimizerError):  # an optimizer of somebody else's that is not installed here
        return ()


def wanted_points(fronts: Mapping[str, Front], winner: str | None) -> list[Point]:
    """Every model once, those that people ask for first: winner, front, finalists, baselines, then by score."""
    found: dict[str, Point] = {}
    for split in reversed(SPLITS):
        found |= {label: point for label, point in by_label(fronts[split]).items() if label not in found}
    choices = {point.label for point in fronts["search"].choices}
    held_out = by_label(fronts["report"]).keys() | by_label(fronts["select"]).keys()

    def rank(point: Point) -> tuple[bool, bool, bool, bool, float, int]:
        known = by_label(fronts["search"]).get(point.label, point)
        asked = point.label in choices, point.label in held_out, not known.is_merge or known.kind == "average"
        return (point.label != winner, not asked[0], not asked[1], not asked[2], -known.score.mean, point.number)

    return sorted(found.values(), key=rank)


def _compared(fronts: Mapping[str, Front], labels: Iterable[str]) -> list[str]:
    """The points whose comparisons are shown: what was scored on held-out examples, and the search's front."""
    shown = {point.label for point in fronts["search"].choices}
    for split in ("select", "report"):
        shown |= {label for label, point in by_label(fronts[split]).items() if point.is_merge}
    return [label for label in labels if label in shown]


def _importance(objective: Objective, searched: Front, material: Material) -> dict[str, Any]:
    """For the score and, where there are several, every task; points in the order in which they were asked."""
    own = [point for point in searched.points if point.is_candidate]
    own = sorted((point for point in own if point.number in material.tables), key=lambda point: point.number)
    if not own and material.missing:
        return {"why": material.missing}
    targets = {"score": np.array([point.score.mean for point in own])}
    if len(objective.weights) > 1:
        targets |= {f"task {task}": np.array([point.tasks[task].mean for point in own]) for task in objective.weights}
    return importance([material.tables[point.number] for point in own], targets, material.inputs)
