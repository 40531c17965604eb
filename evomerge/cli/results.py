"""Commands that show a study's front, choose from it and export a merge. Heavy imports are local to the bodies."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evomerge.cli.application import LOADING, RESULTS, AsJson, Lora, RunFolder, Whole, say, show
from evomerge.errors import USAGE

if TYPE_CHECKING:
    from evomerge.commands.knob import Mixture
    from evomerge.commands.pick import Request
    from evomerge.run import Run

commands = typer.Typer()

Prefer = Annotated[str | None, typer.Option("--prefer", help="Choose by task weights, such as math=2,chat=1.")]
BestAt = Annotated[
    str | None, typer.Option("--max", help="Choose the best merge on this task; constrain others with --keep.")
]
Keep = Annotated[
    list[str] | None,
    typer.Option(
        "--keep", help="Constraint: 'chat>=0.71', or against the best parent 'chat>=-1pt' or 'chat>=98%'; repeatable."
    ),
]
Knee = Annotated[
    bool, typer.Option("--knee", help="Choose the knee: beyond it, gains on one task cost most on the others.")
]
DecidingSplit = Annotated[
    str | None, typer.Option("--split", help="Split to choose on; by default select, or search until select is scored.")
]
Nearest = Annotated[bool, typer.Option("--nearest", help="If no merge meets all constraints, take the nearest one.")]
PredictedPoint = Annotated[
    int | None,
    typer.Option("--predicted", min=1, help="Choose a predicted point by its number in `evomerge pareto`."),
]
Knob = Annotated[
    float | None,
    typer.Option(
        "--knob", help="Choose a position along the front of two tasks, 0 to 1; interpolated between scored merges."
    ),
]
Between = Annotated[
    str | None, typer.Option("--between", help="Tasks at both ends of the knob, such as math,chat, of more than two.")
]


@commands.command(rich_help_panel=RESULTS)
def pareto(
    run: RunFolder,
    split: Annotated[str, typer.Option(help="Split to show: search, select or report.")] = "search",
    everything: Annotated[bool, typer.Option("--all", help="Show every scored model.")] = False,
    plot: Annotated[bool, typer.Option("--plot", help="Plot the front to front.png in the run folder.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the Pareto front of a study.

    Includes 95 % confidence intervals, the probability that each model is on the front for another sample of examples,
    the hypervolume, and the front that the optimizer predicts.
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
    run: RunFolder,
    prefer: Prefer = None,
    best_at: BestAt = None,
    keep: Keep = None,
    knee: Knee = False,
    trial: Annotated[int | None, typer.Option("--trial", min=0, help="Choose a merge by its trial number.")] = None,
    predicted: PredictedPoint = None,
    knob: Knob = None,
    knob_steps: Annotated[
        int | None,
        typer.Option(
            "--knob-steps",
            min=2,
            max=1001,
            help="Show this many positions along the front; -o DIR writes their recipes.",
        ),
    ] = None,
    between: Between = None,
    split: DecidingSplit = None,
    nearest: Nearest = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The recipe file to write.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing recipe.")] = False,
    as_json: AsJson = False,
) -> None:
    """Choose a merge from a study's front.

    Chooses by weights, constraints, the knee or trial number; without any of these interactively, or outside a terminal
    by the study's own preference. Compares the merge with the best parents, also on held-out examples.
    """
    from evomerge.commands.decision import decision_lines, decision_to_dict
    from evomerge.commands.pick import Request, decide
    from evomerge.commands.pick_interactively import ask_for_choice
    from evomerge.run import Run

    opened = Run(run)
    request = Request(prefer, best_at, tuple(keep or ()), knee, trial, split, nearest, predicted, knob, between)
    _check_knob(knob, knob_steps, between)
    if knob is not None or knob_steps is not None:
        _pick_knob(opened, request, knob_steps, output, overwrite=overwrite, as_json=as_json)
        return
    if predicted is not None:
        _pick_predicted(opened, request, output, overwrite=overwrite, as_json=as_json)
        return
    if not (request.wishes or trial is not None or as_json) and sys.stdin.isatty() and sys.stdout.isatty():
        taken = ask_for_choice(opened, split, lambda text: _ask(f"\n{text}"), _say)
        if taken is not None:
            file = output or Path(_ask("File [recipe.yaml]") or "recipe.yaml")
            _write(opened, file, taken, overwrite=overwrite)
            _say(f"Wrote the recipe {file}")
        return
    decision = decide(opened, request)
    data, lines = decision_to_dict(decision, run), decision_lines(decision, run)
    usable = decision.chosen.met or nearest
    if output is not None and usable:
        _write(opened, output, decision.point.number, overwrite=overwrite)
        data["recipe"] = str(output)
        lines.append(f"Wrote the recipe {output}")
    show(as_json, data, *lines)
    if not usable:
        if not as_json:
            typer.echo("error: no merge meets all constraints; --nearest takes the nearest one", err=True)
        raise typer.Exit(USAGE)


@commands.command(rich_help_panel=RESULTS)
def compare(
    run: RunFolder,
    first: Annotated[str, typer.Argument(help="`winner`, a trial's number, or a label such as parent:math.")],
    second: Annotated[str, typer.Argument(help="The model that it is compared with.")],
    split: Annotated[
        str | None,
        typer.Option(
            "--split", help="Split to compare on; by default the last of search, select and report with both."
        ),
    ] = None,
    examples: Annotated[
        int, typer.Option("--examples", min=0, help="Examples to show for each task and direction.")
    ] = 3,
    as_json: AsJson = False,
) -> None:
    """Compare two models of a study, example by example.

    For each task: both scores, the paired difference, and the examples on which one model is better than the other.
    """
    from evomerge.commands.compare import compare as compare_models
    from evomerge.run import Run

    data, lines = compare_models(Run(run), first, second, split, examples)
    show(as_json, data, *lines)


@commands.command(rich_help_panel=RESULTS)
def chat(
    run: RunFolder,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", help="`winner`, a trial's number, or a label; by default the winner, or the best so far."
        ),
    ] = None,
    trial: Annotated[int | None, typer.Option("--trial", min=0, help="Talk to a trial, by its number.")] = None,
    beside: Annotated[str | None, typer.Option("--beside", help="A second model that answers too.")] = None,
    prompt: Annotated[str | None, typer.Option("--prompt", help="Answer this and end.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Maximum number of tokens of an answer.")] = 256,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 takes the likeliest token each time.")] = 0.0,
    as_json: AsJson = False,
) -> None:
    """Talk to a merge of a study, or to two side by side.

    Nothing is exported: models are merged in memory when it is their turn. With the tokenizer's chat template where
    there is one; other models continue the text. /help lists the commands in a conversation.
    """
    if model is not None and trial is not None:
        raise typer.BadParameter("--model and --trial name one model; give one of them")
    if as_json and prompt is None:
        raise typer.BadParameter("--json requires --prompt TEXT")
    say(LOADING)
    from evomerge.commands.chat import answers, talk
    from evomerge.run import Run

    name = str(trial) if trial is not None else model
    names = [name, *([beside] if beside is not None else [])]
    if prompt is not None:
        data, lines = answers(Run(run), names, prompt, most=max_new_tokens, temperature=temperature)
        show(as_json, data, *lines)
        return
    talk(Run(run), names, _next_line, _write_piece, most=max_new_tokens, temperature=temperature)


def _write_piece(text: str) -> None:
    typer.echo(text, nl=False)


def _next_line() -> str:
    if sys.stdin.isatty() and sys.stdout.isatty():
        return input("> ")
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line


@commands.command(rich_help_panel=RESULTS)
def export(
    run: RunFolder,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The folder, or with --recipe-only the file, to write.")
    ],
    best: Annotated[bool, typer.Option("--best", help="Export the selected winner (the default).")] = False,
    trial: Annotated[int | None, typer.Option(min=0, help="Export another trial by its number.")] = None,
    prefer: Prefer = None,
    best_at: BestAt = None,
    keep: Keep = None,
    knee: Knee = False,
    predicted: PredictedPoint = None,
    knob: Knob = None,
    between: Between = None,
    split: DecidingSplit = None,
    nearest: Nearest = False,
    recipe_only: Annotated[bool, typer.Option("--recipe-only", help="Write only the recipe, no weights.")] = False,
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

    request = Request(prefer, best_at, tuple(keep or ()), knee, trial, split, nearest, predicted, knob, between)
    _check_knob(knob, None, between)
    if best and (trial is not None or predicted is not None or knob is not None or request.wishes):
        raise typer.BadParameter(
            "give only one of --best, --trial N, --predicted N, --knob T, or a choice by --prefer, --max, --keep and "
            "--knee"
        )
    if (split is not None or nearest) and not request.wishes and predicted is None and knob is None:
        raise typer.BadParameter("--split and --nearest require --prefer, --max, --keep, --knee or --knob")
    if format_ not in ("evomerge", "mergekit"):
        raise typer.BadParameter(f"--format is evomerge or mergekit; got {format_!r}")
    if lora is not None and (recipe_only or format_ != "evomerge"):
        raise typer.BadParameter("--lora writes weights; omit --recipe-only and --format")
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
    from evomerge.commands.export import write_recipe
    from evomerge.commands.predicted import choice_of, find, predicted_data

    point = find(run, request)
    data = predicted_data(run.folder, point)
    lines = [data["sentence"], f"To export it: {data['next']}"]
    if output is not None:
        write_recipe(choice_of(run, point), output, overwrite=overwrite)
        data["recipe"] = str(output)
        lines.append(f"Wrote the recipe {output}")
    show(as_json, data, *lines)


def _check_knob(knob: float | None, steps: int | None, between: str | None) -> None:
    if knob is not None and steps is not None:
        raise typer.BadParameter("--knob T is one position and --knob-steps K are several: give one of them")
    if between is not None and knob is None and steps is None:
        raise typer.BadParameter("--between requires --knob or --knob-steps")


def _pick_knob(
    run: "Run", request: "Request", steps: int | None, output: Path | None, *, overwrite: bool, as_json: bool
) -> None:
    from evomerge.commands.knob import Mixture, find, shown, shown_steps
    from evomerge.commands.knob_files import write_steps

    if steps is None:
        found = find(run, request)
        data, lines = shown(run, found)
        if output is not None:
            _write(run, output, found if isinstance(found, Mixture) else found.point.number, overwrite=overwrite)
            data["recipe"] = str(output)
            lines.append(f"Wrote the recipe {output}")
    else:
        data, lines = shown_steps(run, request, steps)
        if output is not None:
            files = write_steps(run, request, steps, output, overwrite=overwrite)
            for step, file in zip(data["steps"], files, strict=True):
                step["recipe"] = str(file)
            lines.append(f"Wrote {len(files)} recipes to {output}")
    show(as_json, data, *lines)


def _say(text: str) -> None:
    show(False, {}, text)


def _ask(question: str) -> str:
    # typer's own prompt turns Ctrl-C into an error, with the wrong exit code.
    return input(f"{question}: ")


def _write(run: "Run", output: Path, chosen: "int | Mixture", *, overwrite: bool) -> None:
    """Write the recipe of a trial, by its number, or of an interpolated merge."""
    from evomerge.commands.export import write_recipe
    from evomerge.commands.knob_files import choice_of
    from evomerge.export.export import choose

    choice = choose(run, chosen) if isinstance(chosen, int) else choice_of(run, chosen)
    write_recipe(choice, output, overwrite=overwrite)
