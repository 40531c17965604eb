"""`evomerge export` and `evomerge merge`: weights, or only the recipe, on disk."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from evomerge import export
from evomerge.merging.interop import mergekit
from evomerge.merging.materialize import materialize
from evomerge.recipe_file import read_merge, write_merge


def write_export(
    run: Path, output: Path, trial: int | None, *, recipe_only: bool, format_: str, overwrite: bool
) -> dict[str, Any]:
    """Export the winner or a trial of the study in `run`; returns what to print.

    With `recipe_only`, or in mergekit's format, `output` is one file and no weights are written.
    """
    choice = export.choose(run, trial)
    data: dict[str, Any] = {"label": choice.label, "output": str(output), "scores": choice.scores}
    data["notes"] = list(choice.notes)
    if not recipe_only and format_ == "evomerge":
        return data | asdict(export.export(choice, output, overwrite=overwrite))
    if output.exists() and not overwrite:
        raise FileExistsError(f"{output} exists; give another file, or --overwrite to replace it.")
    if format_ == "mergekit":
        output.write_text(mergekit.dump(choice.merge), encoding="utf-8")
    else:
        write_merge(choice.merge, output)
    return data


def merge_recipe(recipe: Path, output: Path, *, overwrite: bool) -> dict[str, Any]:
    """Merge the models of a recipe file into the folder `output`; returns the manifest."""
    return asdict(materialize(read_merge(recipe), output, overwrite=overwrite))
