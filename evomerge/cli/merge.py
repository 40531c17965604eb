"""Commands that merge without a search. Heavy imports are local to the command bodies."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evomerge.cli.application import LOADING, MERGE, AsJson, Lora, Whole, say, show
from evomerge.errors import DIFFERENT

if TYPE_CHECKING:
    from evomerge.recipe import Merge

commands = typer.Typer()

AllowCode = Annotated[
    bool, typer.Option("--allow-code", help="Allow importing the Python module that the recipe names as its method.")
]
Lenient = Annotated[bool, typer.Option("--lenient", help="Ignore unknown keys, as mergekit does.")]


@commands.command(rich_help_panel=MERGE)
def merge(
    recipe: Annotated[Path, typer.Argument(help="The recipe file, or a mergekit configuration.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to write.")],
    lora: Lora = None,
    modules_to_save: Whole = False,
    lenient: Lenient = False,
    allow_code: AllowCode = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier export.")] = False,
    as_json: AsJson = False,
) -> None:
    """Merge the models of a recipe into a checkpoint or a LoRA."""
    if modules_to_save and lora is None:
        raise typer.BadParameter("--modules-to-save requires --lora RANK")
    from evaluators._own_code import look_in
    from evomerge.recipe.file import read_own

    if allow_code:
        look_in((recipe.absolute().parent, Path.cwd()))
    own = read_own(recipe, allow_code=allow_code)  # before heavy imports, so that a typo is reported at once
    say(LOADING)
    from evomerge.commands.merge import merge_recipe

    data = merge_recipe(
        own or recipe, output, overwrite=overwrite, lora=lora, modules_to_save=modules_to_save, lenient=lenient
    )
    count = len(data["outputs"])
    show(as_json, data, f"Wrote {count} weight file{'' if count == 1 else 's'} to {output}", *data["notes"])


@commands.command(rich_help_panel=MERGE)
def reproduce(
    folder: Annotated[Path, typer.Argument(help="The folder of an export or merge.")],
    allow_code: AllowCode = False,
    as_json: AsJson = False,
) -> None:
    """Make an export again and compare it byte by byte.

    Takes the recipe and manifest in the folder, and as much free disk beside it as it holds. Exit code 1 if anything
    differs; the first different byte of each file is then named.
    """
    exported = _merge_of(folder, allow_code=allow_code)  # before heavy imports
    say(LOADING)
    from evomerge.commands.reproduce import reproduce as make_again

    data, lines = make_again(folder, exported)
    show(as_json, data, *lines)
    if not data["equal"]:
        raise typer.Exit(DIFFERENT)


@commands.command(rich_help_panel=MERGE)
def publish(
    folder: Annotated[Path, typer.Argument(help="The folder of an export or merge.")],
    repository: Annotated[str, typer.Option("--repo", help="ORG/NAME on the Hugging Face hub.")],
    license_: Annotated[
        str | None, typer.Option("--license", help="License of the merge, such as apache-2.0; it is never guessed.")
    ] = None,
    upload: Annotated[bool, typer.Option("--upload", help="Upload; without it, only say what would be done.")] = False,
    private: Annotated[bool, typer.Option("--private", help="Create the repository as a private one.")] = False,
    allow_code: AllowCode = False,
    as_json: AsJson = False,
) -> None:
    """Put an export on the Hugging Face hub.

    Says what would be uploaded and what speaks against it: weights that are not those of the manifest, files that
    evomerge did not write, a license that is not settled. Nothing is sent without --upload.
    """
    exported = _merge_of(folder, allow_code=allow_code)
    from evomerge.commands.publish import publish as publish_export

    data, lines = publish_export(folder, exported, repository, license_, upload=upload, private=private)
    show(as_json, data, *lines)


def _merge_of(folder: Path, *, allow_code: bool) -> "Merge":
    """Return the merge of an export. Raises RecipeError."""
    from evaluators._own_code import look_in
    from evomerge.recipe.file import read_merge

    if allow_code:
        look_in((folder.absolute(), Path.cwd()))
    return read_merge(folder / "recipe.yaml", allow_code=allow_code)


@commands.command("import", rich_help_panel=MERGE)
def import_(
    file: Annotated[Path, typer.Argument(help="A mergekit or mergekit-evolve configuration.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The file to write; by default recipe.yaml or search.yaml.")
    ] = None,
    lenient: Lenient = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
    as_json: AsJson = False,
) -> None:
    """Convert a mergekit configuration to a recipe or search file."""
    from evomerge.commands.import_file import import_file

    data = import_file(file, output, lenient=lenient, overwrite=overwrite)
    notes = [f"note: {note}" for note in data["notes"]]
    show(as_json, data, *notes, f"Wrote the {data['kind']} {data['file']}. Next: {data['next']}")
