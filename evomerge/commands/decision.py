"""Presentation of a point chosen from a front: scores and gains over the best parents, as text, data and card."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from evomerge.objective.score import DisplayScore, display_score, task_difference
from evomerge.report import status
from evomerge.report.words import column_digits, plus_minus, same_decimals, signed
from evomerge.results.as_json import card_row, estimate_to_dict, identity_to_dict, model_to_dict
from evomerge.results.front import Front
from evomerge.results.pick import Chosen, Reached, weights_text
from evomerge.results.ranking import best_on
from evomerge.results.scored import ScoredModel
from evomerge.statistics import Difference


@dataclass(frozen=True, eq=False)
class View:
    """A point on one split. gaps: task -> its best parent, and the paired difference to it."""

    front: Front
    point: ScoredModel
    gaps: Mapping[str, tuple[str, Difference]]


@dataclass(frozen=True, eq=False)
class Decision:
    """A chosen point with the reason. views: on the deciding split, then on report if it was scored there.

    outscored: the note, if any, on a base or parent that scores higher.
    """

    chosen: Chosen
    sentence: str
    notes: tuple[str, ...]
    views: tuple[View, ...]
    outscored: str = ""

    @property
    def point(self) -> ScoredModel:
        """The point on the split that decided."""
        return self.chosen.point


def view(deciding: Front, number: int, split: Front, weights: Mapping[str, float] | None = None) -> View | None:
    """Return a trial's scores on `split` and its gains over the best parents; None if it has no scores there.

    The best parent of each task is the one on the deciding split, so that the comparison is unbiased on other splits.
    weights: of the tasks in the score; by default the objective's.
    """
    mine = split.numbered(number)
    if mine is None:
        return None
    objective = deciding.objective
    gaps = {}
    for n, task in enumerate(deciding.tasks):
        parent = best_on(n, deciding.parents)
        theirs = None if parent is None else split.numbered(parent.number)
        if theirs is not None and task not in objective.whole_model:
            gaps[task] = theirs.label, task_difference(objective, task, mine.scores, theirs.scores)
    if weights is not None:
        stick = display_score(replace(objective, weights=weights), [point.scores for point in split.points])
        counted = replace(objective, weights={task: weight for task, weight in weights.items() if weight})
        mine = mine.shown_by(DisplayScore(counted, stick.scale))  # as `choose` ranks
    return View(split, mine, gaps)


def decision_to_dict(decision: Decision, run: Path) -> dict[str, Any]:
    """Convert a decision to plain data, for JSON; `report` is null if the point was not scored there."""
    point = decision.point
    on_report = next((view for view in decision.views if view.front.split == "report"), None)
    return {
        **identity_to_dict(point),
        "sentence": decision.sentence,
        "met": decision.chosen.met,
        "constraints": [_reached_to_dict(each) for each in decision.chosen.reached],
        "weights": None if decision.chosen.wish.counted is None else dict(decision.chosen.wish.counted),
        **_view_to_dict(decision.views[0]),
        "report": None if on_report is None else _view_to_dict(on_report),
        "notes": list(decision.notes),
        "recipe": None,
        "next": export_command(run, point),
    }


def decision_lines(decision: Decision, run: Path) -> list[str]:
    """Format a decision as lines of text."""
    lines = [decision.sentence, *(f"  {reached_line(each)}" for each in decision.chosen.reached)]
    weights = decision.chosen.wish.counted
    by = "" if weights is None else f" by {weights_text(weights)}"
    for view in decision.views:
        counts = ", ".join(map(str, dict.fromkeys(view.front.examples.values())))
        lines.append(f"On the {view.front.split} split ({counts} examples per task):")
        digits = column_digits([*view.point.tasks.values(), view.point.score])
        wide = column_digits(gap for _, gap in view.gaps.values())
        gaps = {task: signed(gap, wide) for task, (_, gap) in view.gaps.items()}
        for task, value in view.point.tasks.items():
            ahead = f", {gaps[task]} against {view.gaps[task][0]}" if task in gaps else ""
            lines.append(f"  {task} {plus_minus(value, digits)}{ahead}")
        chance = view.front.probability[view.point.label]
        lines.append(f"  score{by} {plus_minus(view.point.score, digits)}, P(front) {chance:.2f}")
    return [
        *lines,
        *(f"note: {note}" for note in decision.notes),
        f"To export it: {export_command(run, decision.point)}",
    ]


def scores_for_card(decision: Decision) -> dict[str, Any]:
    """Return the scores for the manifest and the model card of an exported choice."""
    rows: dict[str, Any] = {"choice": f"{decision.sentence} {decision.outscored}".strip()}
    for view in decision.views:
        row = card_row(view.front.split, view.point.score, view.point.tasks)
        rows[f"{view.point.label}, {view.front.split}"] = row
    return rows


def export_command(run: Path, point: ScoredModel) -> str:
    """Return the command that exports a point as a checkpoint."""
    return f"{status.export_command(run)} --trial {point.number} -o DIR"


def reached_line(each: Reached) -> str:
    """Format as `chat>=-1pt: required 0.79, got 0.80`."""
    limit, value = same_decimals(each.limit, each.value)
    text = f"{each.constraint.text}: required {limit}, got {value}"
    return text + (f", violated by {each.missed_by:.4g}" if each.missed_by > 0 else "")


def _view_to_dict(view: View) -> dict[str, Any]:
    tasks = {}
    for task, value in view.point.tasks.items():
        best, gap = view.gaps.get(task, (None, None))
        ahead = None if gap is None else estimate_to_dict(gap)
        tasks[task] = estimate_to_dict(value) | {"best_model": best, "ahead": ahead}
    return {"split": view.front.split} | model_to_dict(view.front, view.point) | {"tasks": tasks}


def _reached_to_dict(each: Reached) -> dict[str, Any]:
    return {
        "text": each.constraint.text,
        "task": each.constraint.task,
        "limit": each.limit,
        "value": each.value,
        "missed_by": each.missed_by,
    }
