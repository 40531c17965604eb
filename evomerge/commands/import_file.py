"""`evomerge import`: conversion of mergekit configurations, recognized by their content, not their names."""

from pathlib import Path
from typing import Any

from evaluators import _strict_yaml as strict_yaml
from evomerge.config import load_config
from evomerge.config.fields import named_paths
from evomerge.durable import write_text
from evomerge.merging.mergekit.configuration import InteropError
from evomerge.merging.mergekit.evolve import read_evolve
from evomerge.merging.mergekit.file import load_file
from evomerge.merging.mergekit.read import read_mergekit
from evomerge.merging.output.single_file import RECIPE, check_file
from evomerge.merging.recipe_models import open_models
from evomerge.recipe import Recipe
from evomerge.recipe.file import write_merge
from evomerge.text.printable import one_line
from evomerge.yaml.kinds import kind_of


def import_file(path: Path, output: Path | None, *, lenient: bool, overwrite: bool) -> dict[str, Any]:
    """Convert a configuration of mergekit to a recipe, or of mergekit-evolve to a search file; return what to print.

    Raises InteropError for any other file, OutputError or CheckpointError for an output that must not be replaced.
    """
    notes: list[str] = []
    document = load_file(path)
    kind_found = kind_of(document.data)
    if kind_found == "mergekit":
        merge = read_mergekit(path, lenient=lenient, note=notes.append)
        _check_models(merge.recipe)
        target = output or Path("recipe.yaml")
        check_file(target, ours=RECIPE, overwrite=overwrite, inputs=[path, *merge.recipe.paths])
        write_merge(merge, target)
        kind, go_on = "recipe", f"evomerge merge {target} -o DIR"
    elif kind_found == "evolve":
        target = output or Path("search.yaml")
        search = read_evolve(document, target.parent, lenient=lenient, note=notes.append)
        check_file(target, overwrite=overwrite, inputs=[path, *named_paths(search, target.parent)])
        write_text(target, _commented(search, path, notes))
        load_config(target)
        kind, go_on = "search file", f"evomerge check {target}"
    else:
        keys = list(document.data) if isinstance(document.data, dict) else []
        raise InteropError(
            f"{path} is not a configuration of mergekit (`merge_method`) or mergekit-evolve (`genome`); "
            f"it has the keys {', '.join(keys) or 'none'}."
        )
    return {"file": str(target), "kind": kind, "notes": notes, "next": go_on}


def _check_models(recipe: Recipe) -> None:
    """Check that the models can be merged, if all are on this machine. Raises CheckpointError if not."""
    places = [place for model in (recipe.base, *recipe.inputs) for place in (model.path, model.adapter) if place]
    if all(Path(place).exists() for place in places):
        open_models(recipe)


def _commented(search: dict[str, Any], origin: Path, notes: list[str]) -> str:
    comments = [f"From {origin.name}, a configuration of mergekit-evolve.", *(f"Note: {note}" for note in notes)]
    return "\n".join([*(f"# {one_line(comment)}" for comment in comments), "", strict_yaml.dump(search)])
