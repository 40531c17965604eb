"""The command line. Commands only parse and print; what they do, and every heavy import, is in their bodies."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from evomerge import __version__
from evomerge.commands.group import Commands

Lora = Annotated[int | None, typer.Option(min=1, help="Write a LoRA of this rank on the base instead of weights.")]
Whole = Annotated[
    bool, typer.Option("--modules-to-save", help="With --lora: what has no factors (norms, embeddings) goes in whole.")
]
Lenient = Annotated[bool, typer.Option("--lenient", help="Pass over keys that mergekit does not know, as it does.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text for people.")]


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Find the coefficients with which to merge fine-tuned models.",
)


def main() -> None:
    """The console script `evomerge`."""
    # A terminal that cannot show a model's name shows its code points instead of stopping the night's work.
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    app()


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"evomerge {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Find the coefficients with which to merge fine-tuned models."""


@app.command()
def init(
    base: Annotated[str, typer.Argument(help="The model that the experts were fine-tuned from.")],
    experts: Annotated[list[str], typer.Argument(help="The models to merge into it.")],
    task: Annotated[
        list[str], typer.Option("--task", "-t", help="A JSONL, text or task YAML file, or an lm-eval task; repeatable.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The search file to write.")] = Path("search.yaml"),
    study: Annotated[str, typer.Option(help="The folder of the run, in the search file.")] = "runs/search",
    force: Annotated[bool, typer.Option("--force", help="Replace a search file that is there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Look at the models and write a commented search file."""
    from evomerge.commands.draft import draft
    from evomerge.commands.tasks import DraftError
    from evomerge.config import load_config

    if output.exists() and not force:
        raise DraftError(f"{output} exists. Give another file with -o, or --force to replace it.")
    drafted = draft(base, experts, task, output, study)
    output.write_text(drafted.text, encoding="utf-8")
    load_config(output)
    data = {"file": str(output), "facts": drafted.facts, "notes": list(drafted.notes)}
    notes = [f"note: {note}" for note in drafted.notes]
    _print(as_json, data, drafted.facts, *notes, f"Wrote {output}. Next: evomerge check {output}")


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="The search file.")],
    as_json: AsJson = False,
) -> None:
    """Check a search file and everything that it names.

    Nothing is merged or scored yet.
    """
    from evomerge.config import load_config

    config = load_config(file)  # before anything heavy: a typing error is told at once
    from evomerge.commands.checking import check_search

    data, lines = check_search(config)
    _print(as_json, data, *lines, f"Ready: evomerge search {file}")


@app.command()
def search(
    file: Annotated[Path, typer.Argument(help="The search file.")],
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the study where it stopped.")] = False,
    trials: Annotated[int | None, typer.Option(min=1, help="Candidates in all, instead of the file's.")] = None,
    hours: Annotated[float | None, typer.Option(min=0.0, help="Hours in all, instead of the file's.")] = None,
    as_json: AsJson = False,
) -> None:
    """Search, select and report; with --resume go on.

    Ctrl-C once lets running candidates finish, twice stops at once; nothing is lost.
    """
    from evomerge.config import load_config

    config = load_config(file).with_budget(trials=trials, hours=hours)
    from rich.console import Console

    from evomerge.commands.searching import run_search

    code = run_search(config, Console(), resume=resume, as_json=as_json)
    raise typer.Exit(code)


@app.command()
def status(
    run: Annotated[Path, typer.Argument(help="The folder of the run.")],
    plot: Annotated[bool, typer.Option("--plot", help="Draw progress.png in the folder of the run.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say what a study has come to, while it runs or afterwards."""
    from rich.console import Console

    from evomerge.commands.watching import study_status

    data, text = study_status(run, plot=plot)
    if as_json:
        _print(as_json, data)
    else:
        # A file has no width; eighty columns would break the labels.
        Console(width=None if sys.stdout.isatty() else 120).print(text)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="The folder of the run.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The folder, or with --recipe-only the file, to write.")
    ],
    best: Annotated[bool, typer.Option("--best", help="The selected winner; this is the default.")] = False,
    trial: Annotated[int | None, typer.Option(min=0, help="Another trial, by its number.")] = None,
    recipe_only: Annotated[bool, typer.Option("--recipe-only", help="Only the recipe, no weights.")] = False,
    format_: Annotated[str, typer.Option("--format", help="Of the recipe: evomerge or mergekit.")] = "evomerge",
    lora: Lora = None,
    modules_to_save: Whole = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier export.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a study's winner, or another trial, as a checkpoint.

    The folder holds weights, tokenizer, recipe, manifest and model card.
    """
    from evomerge.commands.writing import write_export

    if best and trial is not None:
        raise typer.BadParameter("choose --best or --trial N, not both")
    if format_ not in ("evomerge", "mergekit"):
        raise typer.BadParameter(f"--format is evomerge or mergekit; got {format_!r}")
    if lora is not None and (recipe_only or format_ != "evomerge"):
        raise typer.BadParameter("--lora writes weights; leave out --recipe-only and --format")
    data = write_export(
        run,
        output,
        trial,
        recipe_only=recipe_only,
        format_=format_,
        overwrite=overwrite,
        lora=lora,
        modules_to_save=modules_to_save,
    )
    _print(as_json, data, f"Wrote {data['label']} to {output}", *data["notes"])


@app.command()
def merge(
    recipe: Annotated[Path, typer.Argument(help="The recipe file, or a mergekit configuration.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to write.")],
    lora: Lora = None,
    modules_to_save: Whole = False,
    lenient: Lenient = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier export.")] = False,
    as_json: AsJson = False,
) -> None:
    """Merge the models of a recipe into a checkpoint or a LoRA."""
    from evomerge.commands.writing import merge_recipe

    data = merge_recipe(
        recipe, output, overwrite=overwrite, lora=lora, modules_to_save=modules_to_save, lenient=lenient
    )
    _print(as_json, data, f"Wrote {len(data['outputs'])} weight files to {output}", *data["notes"])


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="A configuration of mergekit or mergekit-evolve.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The file to write; recipe.yaml or search.yaml.")
    ] = None,
    lenient: Lenient = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make a recipe or search file of a mergekit configuration."""
    from evomerge.commands.importing import import_file

    data = import_file(file, output, lenient=lenient, overwrite=overwrite)
    notes = [f"note: {note}" for note in data["notes"]]
    _print(as_json, data, *notes, f"Wrote the {data['kind']} {data['file']}. Next: {data['next']}")


@app.command()
def align(
    model: Annotated[str, typer.Argument(help="The model whose hidden units are reordered.")],
    to: Annotated[str, typer.Option("--to", help="The model that they are matched to.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to write.")],
    residual: Annotated[bool, typer.Option("--residual", help="The channels between the blocks as well.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the order of the steps.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier output.")] = False,
    as_json: AsJson = False,
) -> None:
    """Match a model's hidden units to another's (Git Re-Basin).

    For models trained apart from each other; fine-tuned models of one base need none of it. The outputs stay.
    """
    from evomerge.commands.aligning import align_model

    data = align_model(model, to, output, residual=residual, seed=seed, overwrite=overwrite)
    before, after = data["cosine"]
    moved = f"Moved {data['moved']} of {data['units']} units; cosine of the weights {before:.4f} -> {after:.4f}."
    _print(as_json, data, moved, f"Wrote {output}")


@app.command()
def methods(
    name: Annotated[str | None, typer.Argument(help="One method, in full.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="The table of the documentation.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the merge methods with their coefficients and options.

    What each needs, its coefficients with their search bounds, its options.
    """
    from rich.console import Console

    from evomerge.commands.describing import as_markdown, describe

    if markdown:
        typer.echo(as_markdown())
        return
    data, text = describe(name)
    if as_json:
        typer.echo(json.dumps(data))
    else:
        Console(width=None if sys.stdout.isatty() else 160).print(text)


@app.command()
def statistics(
    data: Annotated[
        list[str],
        typer.Option("--data", help="A text file or JSON lines; with --through NAME=FILE for each input."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write; with --through a folder.")],
    model: Annotated[str | None, typer.Argument(help="The model; none with --through.")] = None,
    adapter: Annotated[str | None, typer.Option(help="A LoRA on the model.")] = None,
    kinds: Annotated[str, typer.Option(help="Of fisher, gram and gram_out, divided by commas.")] = "fisher,gram",
    through: Annotated[
        Path | None, typer.Option(help="A recipe: gram of all its inputs behind layers merged already (RegMean++).")
    ] = None,
    examples: Annotated[int | None, typer.Option(min=1, help="So many examples; all by default.")] = None,
    length: Annotated[int | None, typer.Option(help="Tokens of an example, at most; 512 by default.")] = None,
    separator: Annotated[str, typer.Option(help="Between prompt and answer.")] = " ",
    batch_tokens: Annotated[int, typer.Option(min=1, help="Tokens of a pass without gradients.")] = 4096,
    labels: Annotated[str, typer.Option(help="What gradients are of: data, or sampled from the model.")] = "data",
    seed: Annotated[int, typer.Option(min=0, help="Of sampled labels.")] = 0,
    dtype: Annotated[str | None, typer.Option(help="To load the model in; float32 by default.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto: a GPU where there is one.")] = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what an earlier call wrote.")] = False,
    as_json: AsJson = False,
) -> None:
    """Collect what fisher, regmean and mats need of a model."""
    if (model is None) == (through is None) or (through is None and len(data) != 1):
        raise typer.BadParameter("give MODEL and one --data FILE, or --through RECIPE and --data NAME=FILE per input")
    if through is not None and (dtype is not None or labels != "data" or kinds not in ("gram", "fisher,gram")):
        raise typer.BadParameter("--through collects gram, in the type of the recipe: no --kinds, --labels, --dtype")
    from evomerge.collection.collect import Settings
    from evomerge.commands import collecting
    from evomerge.recipe import Input

    reading = collecting.Reading(examples, length, dtype, device, separator)
    if through is not None:
        files = collecting.name_data(data)
        facts, lines = collecting.collect_through_recipe(
            through, files, output, batch_tokens, reading, overwrite=overwrite
        )
    else:
        settings = Settings(tuple(kinds.split(",")), labels, seed, batch_tokens)  # type: ignore[arg-type]
        facts, lines = collecting.collect_statistics(
            Input("model", str(model), adapter=adapter), Path(data[0]), output, settings, reading, overwrite=overwrite
        )
    _print(as_json, facts, *lines)


def _print(as_json: bool, data: dict[str, Any], *lines: str) -> None:
    typer.echo(json.dumps(data, default=str) if as_json else "\n".join(lines))


if __name__ == "__main__":
    main()
