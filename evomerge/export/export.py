"""Export of a candidate: its complete merge, its scores, the output folder."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evaluators.base import SPLITS, Scores
from evomerge.export.smoke_test import smoke_test
from evomerge.merging.output.manifest import Manifest
from evomerge.merging.output.materialize import materialize
from evomerge.objective import Objective
from evomerge.objective.score import DisplayScore, display_score
from evomerge.recipe import Merge
from evomerge.report import status
from evomerge.report.snapshot import take
from evomerge.results.as_json import card_row
from evomerge.results.ranking import SelectionError
from evomerge.results.report_only import ReportedTask
from evomerge.results.result import Selection
from evomerge.results.scored import ScoredModel
from evomerge.run import Run
from evomerge.statistics import Difference
from evomerge.study import Entry, Study, StudyError
from evomerge.trial import Origin

#: How the row of scores over all three splits is called, after the model's label.
ALL_EXAMPLES = ", all examples"


@dataclass(frozen=True)
class Choice:
    """A candidate of a study, completely: its label, its merge, and scores (model -> column -> value).

    The winner's scores begin with the verdict, a sentence; notes: what else there is to say to people.
    """

    label: str
    merge: Merge
    scores: Mapping[str, Any]
    notes: tuple[str, ...] = ()


#: On the card of a candidate that was scored on the search split only, where the winner's card has a verdict.
SEARCHED_ON = (
    "This merge was proposed and scored on the same examples (the search split): expect lower scores on new ones."
)


def choose(run: Run, number: int | None = None) -> Choice:
    """The study's winner, or trial `number`.

    Raises StudyError for a trial that is not there, SelectionError while there is no winner,
    InputChanged where the models are no longer those that the study searched on.
    """
    study, objective = run.study, run.objective
    if number is None:
        result = _selection(run)
        scores: dict[str, Any] = {"verdict": result.verdict}
        only = result.report_only
        scores |= {model.label: _standing(model, result.leads.get(model.label), only) for model in result.models}
        scores |= _on_all_examples(study, result.winner.label, DisplayScore(objective, result.scale))
        origin = status.origin(study, result.winner.label)
        notes = (result.verdict, *([f"{result.winner.label} is {origin}."] if origin else ()))
        return Choice(result.winner.label, run.merge_of(result.winner), scores, notes)
    entry = run.entry(number)
    label = Origin.CANDIDATE.label(number)
    searched = entry.trial.merge is None and entry.trial.split == "search"
    whole = _on_all_examples(study, label if searched else entry.trial.label, _in_units(objective, entry))
    said = {"note": SEARCHED_ON} if entry.trial.split == "search" and searched else {}
    return Choice(label, run.merge_of(entry.trial), said | {label: _measured(entry, objective)} | whole)


def export(
    choice: Choice,
    folder: Path,
    *,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
    note: Callable[[str], None] = lambda _: None,
) -> Manifest:
    """Write the merged checkpoint and verify that it loads and computes finite numbers.

    note: called with what could not be tried.
    """
    manifest = materialize(choice.merge, folder, overwrite=overwrite, scores=choice.scores, progress=progress)
    untried = smoke_test(folder)
    if untried is not None:
        note(untried)
    return manifest


def _selection(run: Run) -> Selection:
    """Return the result. Raises SelectionError with the options if there is none yet."""
    try:
        return run.selection
    except SelectionError as error:
        snapshot = take(run)
        now = ""
        if snapshot.best is not None:
            now = f", or export a candidate now with --trial N; the best merge so far is {snapshot.best.number}"
        elif snapshot.front is not None:
            numbers = ", ".join(str(model.number) for model in snapshot.front.candidates)
            now = f", or export a candidate now with --trial N; the front so far is {numbers}"
        raise SelectionError(
            f"{error} Finish it with `{status.resume_command(run.folder)}`, or at once with "
            f"`{status.finish_command(run.folder)}`{now}."
        ) from error


def _standing(model: ScoredModel, lead: Difference | None, only: Sequence[ReportedTask]) -> dict[str, Any]:
    row = card_row("report", model.score, model.tasks)
    found = {each.task: each.estimates.get(model.label) for each in only}
    row |= {f"{task} (reported only)": value.mean for task, value in found.items() if value is not None}
    if lead is not None:
        row["winner minus this"] = lead.mean
        if lead.has_interval:
            row["from"], row["to"] = lead.interval
            row["p"] = lead.p
    return row


def _in_units(objective: Objective, entry: Entry) -> DisplayScore | None:
    """The score of a trial by itself; None where tasks of several units are only added up beside other models."""
    scores = {} if entry.outcome is None else entry.outcome.scores
    stick = display_score(objective, [scores] if scores else [])
    return None if stick.scale else stick


def _on_all_examples(study: Study, label: str, stick: DisplayScore | None) -> dict[str, Any]:
    """A row for a model's scores on every example of its tasks: what `lm_eval` prints for the exported folder.

    Most of these examples were searched on, so this number serves to check an export, not as an estimate.
    No row when the model was not scored on all three splits.
    """
    found: dict[str, dict[str, Scores]] = {}
    for entry in study.told:
        same = entry.trial.label == label or Origin.CANDIDATE.label(entry.trial.number) == label
        if same and entry.outcome is not None and entry.outcome.failure is None:
            found[entry.trial.split] = dict(entry.outcome.scores)
    if set(found) != set(SPLITS):
        return {}
    whole = {task: _joined([found[split][task] for split in SPLITS]) for task in found[SPLITS[0]]}
    return {f"{label}{ALL_EXAMPLES}": card_row("all", None if stick is None else stick.estimate(whole), whole)}


def _joined(parts: Sequence[Scores]) -> Scores:
    # A value of the whole model is the same example on every split.
    values = {example: value for part in parts for example, value in zip(part.example_ids, part.values, strict=True)}
    return Scores(tuple(values), np.array(list(values.values())))


def _measured(entry: Entry, objective: Objective) -> dict[str, Any]:
    if entry.outcome is None or entry.outcome.failure is not None:
        raise StudyError(f"Trial {entry.trial.number} has no scores: it failed or did not finish.")
    scores = entry.outcome.scores
    stick = _in_units(objective, entry)
    return card_row(entry.trial.split, None if stick is None else stick.estimate(scores), scores)
