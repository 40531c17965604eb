"""Commands of a search, from its draft to its export. Every heavy import is in a body."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from evomerge.cli.application import AsJson, Lora, Whole, show
from evomerge.cli.results import BestAt, DecidingSplit, Keep, Knee, Nearest, PredictedPoint, Prefer

commands = typer.Typer()


@commands.command()
def init(
    base: Annotated[str, typer.Argument(help="The model that the experts were fine-tuned from.")],
    experts: Annotated[list[str], typer.Argument(help="The models to merge into it.")],
    task: Annotated[
        list[str],
        typer.Option(
            "--task", "-t", help="A JSONL, text or task YAML file, an lm-eval task, or {evaluator: ...}; repeatable."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The search file to write.")] = Path("search.yaml"),
    study: Annotated[str, typer.Option(help="The folder of the run, in the search file.")] = "runs/search",
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing search file.")] = False,
    as_json: AsJson = False,
) -> None:
    """Look at the models and write a commented search file."""
    from evomerge.commands.tasks import DraftError, guess_tasks

    if output.exists() and not force:
        raise DraftError(f"{output} exists. Give another file with -o, or --force to replace it.")
    guess_tasks(task)  # before anything heavy: a file of another kind is told at once
    from evomerge.commands.init import show_tasks, write_draft

    examples = show_tasks(task)
    drafted = write_draft(base, experts, task, output, study, overwrite=force)
    data = {"file": str(output), "facts": drafted.facts, "notes": list(drafted.notes), "examples": examples}
    shown = [
        line
        for name, (title, *lines) in examples.items()
        for line in (f"task {name}: {title}", *(f"  {each}" for each in lines))
    ]
    notes = [f"note: {note}" for note in drafted.notes]
    show(as_json, data, drafted.facts, *shown, *notes, f"Wrote {output}. Next: evomerge check {output}")


@commands.command()
def check(
    file: Annotated[Path, typer.Argument(help="The search file.")],
    as_json: AsJson = False,
) -> None:
    """Check a search file and everything that it names.

    Nothing is merged or scored yet.
    """
    from evomerge.config import load_config

    config = load_config(file)  # before anything heavy: a typing error is told at once
    from evomerge.commands.check import check_search

    data, lines = check_search(config, file)
    show(as_json, data, *lines)


@commands.command()
def plan(
    file: Annotated[Path, typer.Argument(help="The search file.")],
    measure: Annotated[bool, typer.Option("--measure", help="Score two candidates to know the time.")] = False,
    as_json: AsJson = False,
) -> None:
    """Estimate time, memory, disk and statistical power.

    Statistical power is the smallest difference between two models that the held-out examples can detect. If the study
    has begun, the estimates come from its own trials.
    """
    from evomerge.config import load_config

    config = load_config(file)
    from evomerge.commands.plan import plan_search

    data, lines = plan_search(config, file, measure=measure)
    show(as_json, data, *lines)


@commands.command()
def search(
    file: Annotated[Path, typer.Argument(help="The search file.")],
    resume: Annotated[bool, typer.Option("--resume", help="Resume the study where it stopped.")] = False,
    trials: Annotated[int | None, typer.Option(min=1, help="Candidates in all, instead of the file's.")] = None,
    hours: Annotated[float | None, typer.Option(min=0.0, help="Hours in all, instead of the file's.")] = None,
    wandb: Annotated[str | None, typer.Option(help="Also log to this Weights & Biases project.")] = None,
    mlflow: Annotated[str | None, typer.Option(help="Also log to this MLflow URI or experiment.")] = None,
    as_json: AsJson = False,
) -> None:
    """Search, select and report; --resume continues a study.

    Ctrl-C once lets running candidates finish, twice stops at once; nothing is lost.
    """
    from evomerge.config import load_config

    config = load_config(file).with_budget(trials=trials, hours=hours)
    from evomerge.commands.search import run_search
    from evomerge.report.terminal import Terminal

    trackers = {kind: target for kind, target in (("wandb", wandb), ("mlflow", mlflow)) if target is not None}
    code = run_search(config, Terminal(), resume=resume, as_json=as_json, trackers=trackers)
    raise typer.Exit(code)


@commands.command()
def status(
    run: Annotated[Path, typer.Argument(help="The folder of the run.")],
    plot: Annotated[bool, typer.Option("--plot", help="Draw progress.png in the folder of the run.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the state and results of a study."""
    from evomerge.commands.status import study_status
    from evomerge.report.terminal import Terminal

    data, text = study_status(run, plot=plot)
    if as_json:
        show(as_json, data)
    else:
        # A file has no width; eighty columns would break the labels.
        Terminal(width=None if sys.stdout.isatty() else 120).print(text)


@commands.command()
def export(
    run: Annotated[Path, typer.Argument(help="The folder of the run.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The folder, or with --recipe-only the file, to write.")
    ],
    best: Annotated[bool, typer.Option("--best", help="The selected winner; this is the default.")] = False,
    trial: Annotated[int | None, typer.Option(min=0, help="Another trial, by its number.")] = None,
    prefer: Prefer = None,
    best_at: BestAt = None,
    keep: Keep = None,
    knee: Knee = False,
    predicted: PredictedPoint = None,
    split: DecidingSplit = None,
    nearest: Nearest = False,
    recipe_only: Annotated[bool, typer.Option("--recipe-only", help="Only the recipe, no weights.")] = False,
    format_: Annotated[str, typer.Option("--format", help="Format of the recipe: evomerge or mergekit.")] = "evomerge",
    lora: Lora = None,
    modules_to_save: Whole = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier export.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a study's winner, or another trial, as a checkpoint.

    Choose the merge with the same options as in `evomerge pick`. The folder holds weights, tokenizer, recipe, manifest
    and model card.
    """
    from evomerge.commands.pick import Request

    request = Request(prefer, best_at, tuple(keep or ()), knee, trial, split, nearest, predicted)
    if best and (trial is not None or predicted is not None or request.wishes):
        raise typer.BadParameter(
            "choose --best, --trial N, --predicted N, or one of --prefer, --max, --keep and --knee, not both"
        )
    if (split is not None or nearest) and not request.wishes and predicted is None:
        raise typer.BadParameter("--split and --nearest go with --prefer, --max, --keep or --knee")
    if format_ not in ("evomerge", "mergekit"):
        raise typer.BadParameter(f"--format is evomerge or mergekit; got {format_!r}")
    if lora is not None and (recipe_only or format_ != "evomerge"):
        raise typer.BadParameter("--lora writes weights; leave out --recipe-only and --format")
    from evomerge.commands.export import write_export

    data = write_export(
        run,
        output,
        request,
        recipe_only=recipe_only,
        format_=format_,
        overwrite=overwrite,
        lora=lora,
        modules_to_save=modules_to_save,
    )
    show(as_json, data, f"Wrote {data['label']} to {output}", *data["notes"])
