"""From a study to merged weights: which candidate, its complete merge, its scores, the folder."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from evaluators.base import SPLITS, Scores
from evomerge.bench import build_space
from evomerge.config import SearchConfig, load_config
from evomerge.export.smoke_test import smoke_test
from evomerge.launch.pinned import compare_models
from evomerge.merging.baselines import parent_alone, parent_label
from evomerge.merging.models.aligned import Aligned
from evomerge.merging.models.settings import setting_differences
from evomerge.merging.output.manifest import Manifest
from evomerge.merging.output.materialize import materialize
from evomerge.merging.recipe_models import open_models
from evomerge.objective import Objective
from evomerge.objective.score import DisplayScore, display_score
from evomerge.objective.spec import objective_of_study
from evomerge.recipe import Merge, Recipe
from evomerge.report import status
from evomerge.report.snapshot import take
from evomerge.results import Selection, SelectionError, Standing, selection
from evomerge.statistics import Estimate
from evomerge.study import SEARCH_FILE, Entry, Study, StudyError
from evomerge.trial import Origin, Trial

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


def choose(run: Path, number: int | None = None) -> Choice:
    """The study's winner, or trial `number`.

    Raises StudyError for a trial that is not there, SelectionError while there is no winner,
    InputChanged where the models are no longer those that the study searched on.
    """
    study, config = Study.read(run), load_config(run / SEARCH_FILE)
    compare_models(study, config.recipe())
    objective = objective_of_study(study)
    if number is None:
        result = _selection(study, objective)
        scores: dict[str, Any] = {"verdict": result.verdict}
        scores |= {standing.label: _standing(standing) for standing in result.standings}
        scores |= _on_all_examples(study, result.winner.label, DisplayScore(objective, result.scale))
        origin = status.origin(study, result.winner.label)
        notes = (result.verdict, *([f"{result.winner.label} is {origin}."] if origin else ()))
        return Choice(result.winner.label, merge_of(config, result.winner), scores, notes)
    entry = study.entries.get(number)
    if entry is None:
        raise StudyError(f"{run} has no trial {number}. {_trials(study)}")
    label = Origin.CANDIDATE.label(number)
    searched = entry.trial.merge is None and entry.trial.split == "search"
    whole = _on_all_examples(study, label if searched else entry.trial.label, _in_units(objective, entry))
    rows = {label: _measured(entry, objective)} | whole
    return Choice(label, merge_of(config, entry.trial), rows)


def export(
    choice: Choice,
    folder: Path,
    *,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
    note: Callable[[str], None] = lambda _: None,
) -> Manifest:
    """Write the merged checkpoint and prove that it loads and computes finite numbers.

    note: called with what could not be tried.
    """
    manifest = materialize(choice.merge, folder, overwrite=overwrite, scores=choice.scores, progress=progress)
    untried = smoke_test(folder)
    if untried is not None:
        note(untried)
    return manifest


def merge_of(config: SearchConfig, trial: Trial) -> Merge:
    """The complete merge that a trial of this search stands for. Raises SelectionError where none can be written."""
    parent = _parent(config.recipe(), trial) if trial.origin.is_parent else None
    if parent is not None:
        return parent
    if trial.merge is not None:
        return trial.merge
    if trial.x is None:
        raise SelectionError(f"Trial {trial.number} has neither a point nor a merge.")
    recipe = config.recipe()
    base = open_models(recipe).base
    return Merge(recipe, build_space(config.space, recipe, base.layout()).decode(trial.x), trial.seed)


def _parent(recipe: Recipe, trial: Trial) -> Merge | None:
    """A parent as it was scored, with the configuration and tokenizer of its folder; None where those are the merge's.

    Raises SelectionError for one whose configuration is its own while its blocks or rows are the merge's.
    """
    sources = open_models(recipe)
    models = {recipe.base.name: sources.base, **sources.inputs}
    name = next(name for name in models if parent_label(recipe, name) == trial.label)
    if models[name].config is None or models[name].path == sources.tokenizer == sources.base.path:
        return None
    if not recipe.slices and not isinstance(models[name], Aligned):
        return parent_alone(recipe, name, sources.base.layout().names)
    differ = setting_differences(sources.base, {name: models[name]}).get(name, ())
    if differ:
        raise SelectionError(
            f"{trial.label} was scored under its own config.json ({'; '.join(differ)}), and its blocks or rows are "
            f"rearranged for the merge: no folder can hold both. Use the model itself, {models[name].path}."
        )
    return None


def _selection(study: Study, objective: Objective) -> Selection:
    """The result; without one, what can be done."""
    try:
        return selection(study, objective)
    except SelectionError as error:
        snapshot = take(study)
        now = ""
        if snapshot.best is not None:
            now = f", or export a candidate now with --trial N; the best so far is {snapshot.best.number}"
        elif snapshot.front is not None:
            numbers = ", ".join(map(str, snapshot.front.numbers))
            now = f", or export a candidate now with --trial N; the front so far is {numbers}"
        raise SelectionError(f"{error} Finish it with `{status.resume_command(study.folder)}`{now}.") from error


def _trials(study: Study) -> str:
    """Which trials there are, by what they were scored on."""
    if not study.entries:
        return "It has none yet."
    runs = groupby(study.entries.values(), key=lambda entry: entry.trial.split)
    listed = [(split, [entry.trial.number for entry in entries]) for split, entries in runs]
    return f"It has {', '.join(f'{n[0]} to {n[-1]} (on the {split} split)' for split, n in listed)}."


def _standing(standing: Standing) -> dict[str, Any]:
    row = _row("report", standing.score, standing.tasks)
    if standing.behind is not None:
        row["winner minus this"] = standing.behind.mean
        if standing.behind.has_interval:
            row["from"], row["to"] = standing.behind.interval
            row["p"] = standing.behind.p
    return row


def _in_units(objective: Objective, entry: Entry) -> DisplayScore | None:
    """The yardstick of a trial by itself; None where tasks of several units are only added up beside other models."""
    scores = {} if entry.outcome is None else entry.outcome.scores
    stick = display_score(objective, [scores] if scores else [])
    return None if stick.scale else stick


def _on_all_examples(study: Study, label: str, stick: DisplayScore | None) -> dict[str, Any]:
    """A row for a model's scores on every example of its tasks: what `lm_eval` prints for the exported folder.

    Most of these examples were searched on, so this number is for checking an export, not for believing in it.
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
    return {f"{label}{ALL_EXAMPLES}": _row("all", None if stick is None else stick.estimate(whole), whole)}


def _joined(parts: Sequence[Scores]) -> Scores:
    # What is measured of the whole model is the same example on every split.
    values = {example: value for part in parts for example, value in zip(part.example_ids, part.values, strict=True)}
    return Scores(tuple(values), np.array(list(values.values())))


def _measured(entry: Entry, objective: Objective) -> dict[str, Any]:
    if entry.outcome is None or entry.outcome.failure is not None:
        raise StudyError(f"Trial {entry.trial.number} has no scores: it failed or did not finish.")
    scores = entry.outcome.scores
    stick = _in_units(objective, entry)
    return _row(entry.trial.split, None if stick is None else stick.estimate(scores), scores)


def _row(split: str, score: Estimate | None, tasks: Mapping[str, Estimate | Scores]) -> dict[str, Any]:
    """score: None where the tasks do not add up to one."""
    row: dict[str, Any] = {"split": split}
    if score is not None:
        row |= {"examples": score.n_examples, "score": score.mean}
        if score.has_interval:
            row["low"], row["high"] = score.interval
    return row | {task: value.mean for task, value in tasks.items()}
