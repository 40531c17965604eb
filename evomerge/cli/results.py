"""Commands that look at a study's front, choose from it and write it out. Every heavy import is in a body."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evomerge.cli.application import RESULTS, AsJson, Lora, Whole, show
from evomerge.errors import USAGE

if TYPE_CHECKING:
    from evomerge.commands.pick import Request
    from evomerge.run import Run

commands = typer.Typer()

Folder = Annotated[Path, typer.Argument(help="The folder of the run.")]
Prefer = Annotated[str | None, typer.Option("--prefer", help="Weights of tasks, such as math=2,chat=1.")]
BestAt = Annotated[str | None, typer.Option("--max", help="The best merge on this task; with --keep for the others.")]
Keep = Annotated[
    list[str] | None,
    typer.Option("--keep", help="'chat>=0.71', 'chat>=-1pt' or 'chat>=98%' (of the best parent); repeatable."),
]
Knee = Annotated[bool, typer.Option("--knee", help="Where gaining on one task begins to cost most on the others.")]
DecidingSplit = Annotated[
    str | None, typer.Option("--split", help="Which examples decide; select by default, once it is scored.")
]
Nearest = Annotated[bool, typer.Option("--nearest", help="Where no merge keeps all of it, the one nearest to it.")]
PredictedPoint = Annotated[
    int | None,
    typer.Option("--predicted", min=1, help="A predicted point by its number, as `evomerge pareto` lists it."),
]


@commands.command(rich_help_panel=RESULTS)
def pareto(
    run: Folder,
    split: Annotated[str, typer.Option(help="Of the examples: search, select or report.")] = "search",
    everything: Annotated[bool, typer.Option("--all", help="Every model that was scored.")] = False,
    plot: Annotated[bool, typer.Option("--plot", help="Draw front.png in the folder of the run.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the front of a study: the merges that no other beats.

    With 95 % intervals, the probability that each is on the front for other examples of the same kind, what the front
    covers (hypervolume), and what the optimizer predicts beyond it.
    """
    from evomerge.commands.pareto import show_front
    from evomerge.report.terminal import Terminal
    from evomerge.run import Run

    console = Terminal(width=None if sys.stdout.isatty() else 160)
    data, text = show_front(Run(run), split, console.width, everything=everything, plot=plot)
    if as_json:
        show(as_json, data)
    else:
        console.print(text)


@commands.command(rich_help_panel=RESULTS)
def pick(
    run: Folder,
    prefer: Prefer = None,
    best_at: BestAt = None,
    keep: Keep = None,
    knee: Knee = False,
    trial: Annotated[int | None, typer.Option("--trial", min=0, help="A merge by its trial number.")] = None,
    predicted: PredictedPoint = None,
    split: DecidingSplit = None,
    nearest: Nearest = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The recipe file to write.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a recipe that is there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Choose a merge from a study's front.

    By weights, by what it has to keep, at the knee, or by number; without any of them in a terminal by asking, else by
    what the study prefers. Says how it compares with the best parents, also on examples that did not decide.
    """
    from evomerge.commands.decision import decision_lines, decision_to_dict
    from evomerge.commands.pick import Request, decide
    from evomerge.commands.pick_interactively import ask_for_choice
    from evomerge.run import Run

    opened = Run(run)
    request = Request(prefer, best_at, tuple(keep or ()), knee, trial, split, nearest, predicted)
    if predicted is not None:
        _pick_predicted(opened, request, output, overwrite=overwrite, as_json=as_json)
        return
    if not (request.wishes or trial is not None or as_json) and sys.stdin.isatty() and sys.stdout.isatty():
        taken = ask_for_choice(opened, split, lambda text: _ask(f"\n{text}"), _say)
        if taken is not None:
            file = output or Path(_ask("File [recipe.yaml]") or "recipe.yaml")
            _write(opened, file, Request(trial=taken), overwrite=overwrite)
            _say(f"Wrote the recipe {file}")
        return
    decision = decide(opened, request)
    data, lines = decision_to_dict(decision, run), decision_lines(decision, run)
    usable = decision.chosen.met or nearest
    if output is not None and usable:
        _write(opened, output, Request(trial=decision.point.number), overwrite=overwrite)
        data["recipe"] = str(output)
        lines.append(f"Wrote the recipe {output}")
    show(as_json, data, *lines)
    if not usable:
        if not as_json:
            typer.echo("error: no merge has all that was asked for; --nearest takes the nearest", err=True)
        raise typer.Exit(USAGE)


@commands.command(rich_help_panel=RESULTS)
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
    from evomerge.run import Run

    data = write_export(
        Run(run),
        output,
        request,
        recipe_only=recipe_only,
        format_=format_,
        overwrite=overwrite,
        lora=lora,
        modules_to_save=modules_to_save,
    )
    show(as_json, data, f"Wrote {data['label']} to {output}", *data["notes"])


def _pick_predicted(run: "Run", request: "Request", output: Path | None, *, overwrite: bool, as_json: bool) -> None:
    from evomerge.commands.predicted import find, predicted_data

    point = find(run, request)
    data = predicted_data(run.folder, point)
    lines = [data["sentence"], f"To write it out: {data['next']}"]
    if output is not None:
        _write(run, output, request, overwrite=overwrite)
        data["recipe"] = str(output)
        lines.append(f"Wrote the recipe {output}")
    show(as_json, data, *lines)


def _say(text: str) -> None:
    from evomerge.text.printable import printable

    typer.echo(printable(text))


def _ask(question: str) -> str:
    # typer's own prompt makes an error of Ctrl-C, which then has the exit code of one.
    return input(f"{question}: ")


def _write(run: "Run", output: Path, request: "Request", *, overwrite: bool) -> None:
    from evomerge.commands.export import write_export

    write_export(run, output, request, recipe_only=True, format_="evomerge", overwrite=overwrite)
