"""`evomerge merge`: a recipe, or a mergekit configuration, as weights on disk."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from evomerge.commands.progress import progress_bar
from evomerge.merging.mergekit.read import read_mergekit
from evomerge.merging.method import MethodError
from evomerge.merging.models.adapter import WEIGHTS
from evomerge.merging.output.lora_export import export_lora
from evomerge.merging.output.materialize import check_method, materialize
from evomerge.merging.output.staging import unfinished
from evomerge.merging.recipe_models import notes_on, open_moments
from evomerge.recipe import Merge
from evomerge.recipe.file import RecipeFile


def merge_recipe(
    recipe: RecipeFile | Path,
    output: Path,
    *,
    overwrite: bool,
    lora: int | None = None,
    modules_to_save: bool = False,
    lenient: bool = False,
) -> dict[str, Any]:
    """Merge the models of a recipe file, or of a mergekit configuration, into the folder `output`.

    Returns the manifest or the report of the LoRA, with notes. Raises RecipeError with the line of what the method does
    not accept, and the errors of `materialize` and `export_lora`.
    """
    notes = unfinished(output)
    if isinstance(recipe, RecipeFile):
        merge = checked(recipe)
    else:
        merge = read_mergekit(recipe, lenient=lenient, note=notes.append)
    if lora is not None:
        written = write_lora(merge, output, lora, modules_to_save, overwrite=overwrite)
        return written | {"notes": [*notes, *_notes(merge), *written["notes"]]}
    with progress_bar("merging") as progress:
        manifest = materialize(merge, output, overwrite=overwrite, progress=progress)
    return asdict(manifest) | {"notes": [*notes, *_notes(merge)]}


def checked(recipe: RecipeFile) -> Merge:
    """Return the merge of a recipe file, checked by its method. Raises RecipeError with the line, or PluginError."""
    try:
        check_method(recipe.merge)
    except MethodError as error:
        recipe.refuse(error.place, str(error))
    return recipe.merge


def write_lora(
    merge: Merge,
    output: Path,
    rank: int,
    modules_to_save: bool,
    *,
    overwrite: bool,
    scores: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write a merge as a LoRA on its base; return the report to print. Raises the errors of `export_lora`."""
    report = export_lora(merge, output, rank, modules_to_save=modules_to_save, overwrite=overwrite, scores=scores)
    return {"output": str(output), "outputs": [WEIGHTS], "lora": asdict(report), "notes": report.text}


def _notes(merge: Merge) -> list[str]:
    return list(notes_on(open_moments(merge.recipe.inputs)))
