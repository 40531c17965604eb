"""`evomerge export` and `evomerge merge`: weights, or only the recipe, on disk."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from evomerge import export
from evomerge.commands.decision import scores_for_card
from evomerge.commands.importing import read_recipe
from evomerge.commands.picking import Request, decide, number_to_write
from evomerge.commands.progress import progress_bar
from evomerge.merging.interop import mergekit
from evomerge.merging.models.adapter import WEIGHTS
from evomerge.merging.output.lora_export import export_lora
from evomerge.merging.output.materialize import materialize
from evomerge.merging.sources import notes_on, open_moments
from evomerge.recipe import Merge
from evomerge.recipe_file import write_merge


def write_export(
    run: Path,
    output: Path,
    request: Request,
    *,
    recipe_only: bool,
    format_: str,
    overwrite: bool,
    lora: int | None = None,
    modules_to_save: bool = False,
) -> dict[str, Any]:
    """Export the winner of the study in `run`, a trial, or what a wish leads to; returns what to print.

    With `recipe_only`, or in mergekit's format, `output` is one file and no weights are written. lora: the rank of
    the adapter that is written instead of whole weights, see `export_lora`.
    """
    choice = _choose(run, request)
    data: dict[str, Any] = {"label": choice.label, "output": str(output), "scores": choice.scores}
    data["notes"] = list(choice.notes)
    if lora is not None:
        adapter = _as_lora(choice.merge, output, lora, modules_to_save, overwrite=overwrite, scores=choice.scores)
        return data | {**adapter, "notes": [*data["notes"], *adapter["notes"]]}
    if not recipe_only and format_ == "evomerge":
        with progress_bar(f"{choice.label}: merging") as progress:
            written = export.export(choice, output, overwrite=overwrite, progress=progress)
        return data | asdict(written)
    if output.exists() and not overwrite:
        raise FileExistsError(f"{output} exists; give another file, or --overwrite to replace it.")
    if format_ == "mergekit":
        output.write_text(mergekit.dump(choice.merge), encoding="utf-8")
    else:
        write_merge(choice.merge, output)
    return data


def _choose(run: Path, request: Request) -> export.Choice:
    if not request.wishes:
        return export.choose(run, request.trial)
    decision = decide(run, request)
    choice = export.choose(run, number_to_write(decision, request))
    return replace(choice, scores=scores_for_card(decision), notes=(decision.sentence, *decision.notes))


def merge_recipe(
    recipe: Path,
    output: Path,
    *,
    overwrite: bool,
    lora: int | None = None,
    modules_to_save: bool = False,
    lenient: bool = False,
) -> dict[str, Any]:
    """Merge the models of a recipe file or mergekit configuration into the folder `output`.

    Returns the manifest, or what a LoRA holds, and notes.
    """
    notes: list[str] = []
    merge = read_recipe(recipe, lenient=lenient, note=notes.append)
    if lora is not None:
        written = _as_lora(merge, output, lora, modules_to_save, overwrite=overwrite)
        return written | {"notes": [*notes, *_notes(merge), *written["notes"]]}
    with progress_bar("merging") as progress:
        manifest = materialize(merge, output, overwrite=overwrite, progress=progress)
    return asdict(manifest) | {"notes": [*notes, *_notes(merge)]}


def _notes(merge: Merge) -> list[str]:
    return list(notes_on(open_moments(merge.recipe.inputs)))


def _as_lora(
    merge: Merge,
    output: Path,
    rank: int,
    modules_to_save: bool,
    *,
    overwrite: bool,
    scores: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    report = export_lora(merge, output, rank, modules_to_save=modules_to_save, overwrite=overwrite, scores=scores)
    return {"output": str(output), "outputs": [WEIGHTS], "lora": asdict(report), "notes": report.text}
