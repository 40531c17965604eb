"""`--predicted N` of `evomerge pick` and `evomerge export`: a point of the predicted front, which was not measured."""

import shlex
from pathlib import Path
from typing import Any

from evomerge.commands.pick import Request
from evomerge.export.export import Choice
from evomerge.report import status
from evomerge.report.words import column_digits, plus_minus
from evomerge.results.as_json import predicted_to_dict
from evomerge.results.pick import ChoiceError
from evomerge.results.predicted import Predicted
from evomerge.run import Run
from evomerge.trial import Trial


def find(run: Run, request: Request) -> Predicted:
    """Return the predicted point of the requested number. Raises ChoiceError if there is none."""
    if request.wishes or request.trial is not None or request.split is not None or request.nearest:
        raise ChoiceError("--predicted N names the point: leave out --trial, --split, --nearest and all preferences.")
    points = run.predicted
    found = next((point for point in points if point.number == request.predicted), None)
    if found is None:
        listing = f"`evomerge pareto {shlex.quote(str(run.folder))}"
        there = (
            f"valid numbers are 1 to {len(points)}. {listing} --all` lists them"
            if points
            else f"this study's optimizer predicts none. {listing}` lists the measured ones"
        )
        raise ChoiceError(f"There is no predicted point {request.predicted}: {there}.")
    return found


def sentence(point: Predicted) -> str:
    """Describe a predicted point: `predicted 7 was not measured; expected on the search split: ...`."""
    digits = column_digits(point.tasks.values())
    expected = ", ".join(f"{task} {plus_minus(value, digits)}" for task, value in point.tasks.items())
    return (
        f"predicted {point.number} was not measured; expected on the search split: {expected}. "
        f"The nearest measured model is {point.nearest.label}, at distance {point.distance:.2g}."
        + (" A measured model is expected to be at least as good on every task." if point.dominated else "")
    )


def predicted_data(run: Path, point: Predicted) -> dict[str, Any]:
    """Convert a predicted point to plain data, for JSON."""
    return {**predicted_to_dict(point), "sentence": sentence(point), "recipe": None, "next": command(run, point)}


def command(run: Path, point: Predicted) -> str:
    """Return the command that exports a predicted point as a checkpoint."""
    return f"{status.export_command(run)} --predicted {point.number} -o DIR"


def choice_of(run: Run, point: Predicted) -> Choice:
    """Return the merge of a predicted point, for `export`."""
    merge = run.merge_of(Trial(-1, point.x, seed=run.config.seed))
    said = sentence(point)
    return Choice(f"predicted {point.number}", merge, {"prediction": said}, (said,))
