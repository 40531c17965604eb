"""`evomerge pareto`: the front of a study, its hypervolume, the predicted front, and follow-up commands."""

import shlex
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from evomerge.commands.decision import export_command
from evomerge.commands.pick import check_split
from evomerge.optimizers.base import OptimizerError
from evomerge.plugins import PluginError
from evomerge.report import front_table, status, words
from evomerge.report.front_plot import plot_front
from evomerge.results.as_json import front_to_dict, hypervolume_to_dict, models_to_list, predicted_to_dict
from evomerge.results.front import Front
from evomerge.results.predicted import Predicted
from evomerge.run import Run


def show_front(
    run: Run, split: str, width: int, *, everything: bool = False, plot: bool = False
) -> tuple[dict[str, Any], RenderableType]:
    """Show the front of a run, as plain data and as tables. width: of the terminal, in characters.

    Raises ChoiceError for an unknown split.
    """
    check_split(split)
    shown, searched, held_out = run.scored(split), run.scored(), run.scored("report")
    beyond, notes = _predicted(run)
    notes = [*_notes(shown), *_volume_notes(searched, held_out), *notes]
    next_ = [f"evomerge pick {shlex.quote(str(run.folder))}"]
    if run.selected is not None:
        next_.append(f"{status.export_command(run.folder)} -o DIR")
    elif "preferred" in shown.suggested:
        next_.append(export_command(run.folder, shown.suggested["preferred"]))
    if beyond:
        next_.append(f"evomerge pick {shlex.quote(str(run.folder))} --predicted N")
    data = {
        "study": str(run.folder),
        **front_to_dict(shown),
        "points": models_to_list(shown),
        "selected": run.selected,
        "hypervolume": {f.split: hypervolume_to_dict(f) for f in (searched, held_out)},
        "predicted": [predicted_to_dict(point) for point in beyond],
        "notes": notes,
        "next": next_,
        "picture": str(plot_front(run, shown)) if plot else None,
    }
    parts: list[RenderableType] = [Text(_heading(shown))]
    if shown.points:
        parts.append(front_table.render_front(shown, width, selected=run.selected, everything=everything))
    parts += [Text(front_table.hypervolume_line(f)) for f in (searched, held_out) if f.points]
    if beyond:
        parts.append(front_table.render_predicted(searched, beyond, width, everything=everything))
    parts += [Text(f"note: {note}") for note in notes]
    if plot:
        parts.append(Text(f"picture: {data['picture']}"))
    return data, Group(*parts, Text("\n" + "\n".join(f"next: {command}" for command in next_)))


def _heading(shown: Front) -> str:
    if not shown.points:
        return f"Nothing is scored on the {shown.split} split yet."
    examples = ", ".join(f"{task} {count}" for task, count in shown.examples.items())
    return (
        f"Front (*) of the {shown.split} split ({examples} examples): {len(shown.on_front)} of "
        f"{words.count(len(shown.points), 'model')}, base and parents included; ± is half a 95 % interval."
    )


def _predicted(run: Run) -> tuple[tuple[Predicted, ...], list[str]]:
    try:
        why = run.why_unpredicted
        return run.predicted, [] if why is None else [f"No predicted front: {why}."]
    except (PluginError, OptimizerError) as error:
        return (), [f"No predictions: {error}"]


def _volume_notes(searched: Front, held_out: Front) -> list[str]:
    """Warn that the hypervolumes of two splits are not comparable."""
    if searched.hypervolume is None or held_out.hypervolume is None:
        return []
    note = (
        "Hypervolumes of different splits are not comparable: each has its own reference point, and fewer models are "
        "scored on the report split. Compare each with the hypervolume of base and parents on the same split."
    )
    return [note]


def _notes(shown: Front) -> list[str]:
    notes = []
    scale = shown.reference.display.text
    if scale:
        notes.append(f"The score is a mean, with {scale}.")
    if shown.objective.keep and shown.parents:
        kept = ", ".join(f"{task} {shown.objective.asked(task)}" for task in shown.objective.keep)
        notes.append(f"Constraints relative to the best parent: {kept}; merges that violate them are marked.")
    if shown.split == "search" and shown.optimism is not None:
        notes.append(
            "Candidates were selected on these examples: expect the best score to be "
            f"{shown.optimism.expected:.2g} too high, and the hypervolume too large; the report split is unbiased."
        )
    return notes + words.smooth_notes(shown.objective) + words.absent(shown)
