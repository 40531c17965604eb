"""`evomerge export`: weights, or only the recipe, on disk."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from evomerge.commands import knob, knob_files
from evomerge.commands.decision import Decision, scores_for_card
from evomerge.commands.merge import write_lora
from evomerge.commands.pick import Request, decide, number_to_write
from evomerge.commands.predicted import choice_of, find
from evomerge.commands.progress import progress_bar
from evomerge.durable import write_text
from evomerge.export import export
from evomerge.merging.mergekit import write
from evomerge.merging.output.single_file import RECIPE, check_file
from evomerge.merging.output.staging import unfinished
from evomerge.recipe.file import write_merge
from evomerge.run import Run


def write_export(
    run: Run,
    output: Path,
    request: Request,
    *,
    recipe_only: bool,
    format_: str,
    overwrite: bool,
    lora: int | None = None,
    modules_to_save: bool = False,
) -> dict[str, Any]:
    """Export the winner of a run, a trial, or a choice by preference; return the data to print.

    With `recipe_only`, or in mergekit's format, `output` is one file and no weights are written. lora: rank of an
    adapter to write instead of full weights, see `export_lora`. Raises OutputError or CheckpointError for a file or
    folder that must not be replaced.
    """
    choice = _choose(run, request)
    if recipe_only or format_ == "mergekit":
        return write_recipe(choice, output, format_=format_, overwrite=overwrite)
    data = _printed(choice, output)
    if lora is not None:
        adapter = write_lora(choice.merge, output, lora, modules_to_save, overwrite=overwrite, scores=choice.scores)
        return data | {**adapter, "notes": [*data["notes"], *adapter["notes"]]}
    with progress_bar(f"{choice.label}: merging") as progress:
        written = export.export(choice, output, overwrite=overwrite, progress=progress, note=data["notes"].append)
    return data | asdict(written)


def write_recipe(choice: export.Choice, output: Path, *, format_: str = "evomerge", overwrite: bool) -> dict[str, Any]:
    """Write the recipe of a choice to a file; return the data to print. Raises like `write_export`."""
    data = _printed(choice, output)
    check_file(output, ours=RECIPE, overwrite=overwrite, inputs=choice.merge.recipe.paths)
    if format_ == "mergekit":
        write_text(output, write.dump(choice.merge, output.parent))
    else:
        write_merge(choice.merge, output)
    return data


def _printed(choice: export.Choice, output: Path) -> dict[str, Any]:
    notes = [*unfinished(output), *choice.notes]
    return {"label": choice.label, "output": str(output), "scores": choice.scores, "notes": notes}


def _choose(run: Run, request: Request) -> export.Choice:
    if request.predicted is not None:
        return choice_of(run, find(run, request))
    if request.knob is not None:
        found = knob.find(run, request)
        return knob_files.choice_of(run, found) if isinstance(found, knob.Mixture) else _decided(run, request, found)
    if not request.wishes:
        return export.choose(run, request.trial)
    return _decided(run, request, decide(run, request))


def _decided(run: Run, request: Request, decision: Decision) -> export.Choice:
    choice = export.choose(run, number_to_write(decision, request))
    notes = (decision.sentence, *decision.notes)
    whole = {name: row for name, row in choice.scores.items() if name.endswith(export.ALL_EXAMPLES)}
    return replace(choice, label=decision.point.label, scores=scores_for_card(decision) | whole, notes=notes)
