"""Names for the models of a run in commands: the winner, a trial's number, or a label."""

from evaluators._nearest import did_you_mean
from evaluators.base import SPLITS
from evomerge.results.scored import ScoredModel
from evomerge.run import Run
from evomerge.study import StudyError

#: Word for the selected winner, beside labels and trial numbers.
WINNER = "winner"


def model_named(run: Run, given: str) -> ScoredModel:
    """Return a scored model, on the first split that it was scored on.

    given: `winner`, the number of a trial, or a label such as `parent:math`. Raises StudyError.
    """
    points = [point for split in SPLITS for point in run.scored(split).points]
    if given.isdecimal():
        number = run.entry(int(given)).trial.number
        found = next((point for point in points if number in (point.number, point.trial.number)), None)
        if found is None:
            raise StudyError(f"Trial {number} of {run.folder} has no scores.")
        return found
    if given == WINNER and run.selected is None:
        raise StudyError(f"{run.folder} has no winner yet; give a trial's number or a label.")
    label = run.selected if given == WINNER else given
    found = next((point for point in points if point.label == label), None)
    if found is None:
        near = did_you_mean(given, [point.label for point in points])
        raise StudyError(
            f"{run.folder} has no model {given!r}.{near} Give {WINNER}, a trial's number, or a label of "
            f"`evomerge pareto {run.folder} --all`."
        )
    return found
