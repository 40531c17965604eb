"""Commands that draft, check, plan and run a search. Heavy imports are local to the command bodies."""

import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evomerge.cli.application import LOADING, SEARCH, AsJson, RunFolder, say, show

if TYPE_CHECKING:
    from collections.abc import Callable

    from evomerge.launch.extension import Extension
    from evomerge.results.result import Selection

commands = typer.Typer()

LearnFrom = Annotated[
    list[Path] | None,
    typer.Option("--learn-from", help="Folder of an earlier run whose trials the search begins with; repeatable."),
]

NoMenu = Annotated[bool, typer.Option("--no-menu", help="Do not offer what can be done next at the end.")]


@commands.command(rich_help_panel=SEARCH)
def demo(
    into: Annotated[Path, typer.Option(help="The folder for models, search file, run and merge.")] = Path(
        "evomerge-demo"
    ),
) -> None:
    """Train tiny models, then search, report and export their merge.

    Takes about five minutes on two CPU cores, without a GPU or downloads. Each step shows the command that it runs;
    after an interruption, the same command resumes.
    """
    from evomerge.commands import subcommand
    from evomerge.commands.demo import begin_demo, steps_of_demo, train_models

    begin_demo(into)
    typer.echo("== 1/5  Models: training a base and four experts on one CPU core (about two minutes)")
    say(LOADING)
    train_models(into, say=typer.echo)
    for number, step in enumerate(steps_of_demo(into), 2):
        typer.echo(f"== {number}/5  {step.title}\n$ {subcommand.shown(step.arguments)}")
        code = subcommand.run(step.arguments)
        if code:
            typer.echo(f"Stopped here; `evomerge demo --into {shlex.quote(str(into))}` resumes.", err=True)
            raise typer.Exit(code)
    shown = f"{into / 'search.yaml'}, {into / 'run/report.html'} and {into / 'merged'}"
    typer.echo(f"Done: see {shown}. Next: evomerge init BASE EXPERT... --task TASK")


@commands.command(rich_help_panel=SEARCH)
def init(
    base: Annotated[str | None, typer.Argument(help="The model that the experts were fine-tuned from.")] = None,
    experts: Annotated[list[str] | None, typer.Argument(help="The models to merge into it.")] = None,
    task: Annotated[
        list[str] | None,
        typer.Option(
            "--task", "-t", help="A JSONL, text or task YAML file, an lm-eval task, or {evaluator: ...}; repeatable."
        ),
    ] = None,
    budget: Annotated[
        str | None, typer.Option(help="Evaluations (200) or time (8h, 30min) to put into the search file.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The search file to write.")] = Path("search.yaml"),
    study: Annotated[str, typer.Option(help="The run folder to put into the search file.")] = "runs/search",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
    force: Annotated[bool, typer.Option("--force", hidden=True, help="Former name of --overwrite.")] = False,
    as_json: AsJson = False,
) -> None:
    """Inspect the models and write a commented search file.

    In a terminal, asks for models, tasks and budget that are not given, and proposes those that it finds.
    """
    from evomerge.commands.tasks import DraftError, guess_tasks

    overwrite = overwrite or force
    if output.exists() and not overwrite:
        raise DraftError(f"{output} exists. Give another file with -o, or --overwrite to replace it.")
    from evomerge.commands.init_questions import Answers, ask_for_missing, read_budget

    limits = {"trials": 200} if budget is None else read_budget(budget)
    if base and experts and task:
        given = Answers(base, tuple(experts), tuple(task), limits)
    elif as_json or not _asks_people():
        missing = [name for name, value in (("BASE", base), ("EXPERTS", experts), ("--task", task)) if not value]
        raise DraftError(f"Missing {', '.join(missing)}. In a terminal, `evomerge init` asks for what is missing.")
    else:
        given = ask_for_missing(base, experts or (), task or (), lambda text: input(f"{text}: "), typer.echo, budget)
    guess_tasks(given.tasks)  # before heavy imports, so that a wrong file is reported at once
    say(LOADING)
    from evomerge.commands.init import show_tasks, write_draft

    examples = show_tasks(given.tasks)
    drafted = write_draft(
        given.base, given.experts, given.tasks, output, study, budget=given.budget, overwrite=overwrite
    )
    data = {"file": str(output), "facts": drafted.facts, "notes": list(drafted.notes), "examples": examples}
    shown = [
        line
        for name, (title, *lines) in examples.items()
        for line in (f"task {name}: {title}", *(f"  {each}" for each in lines))
    ]
    notes = [f"note: {note}" for note in drafted.notes]
    show(as_json, data, drafted.facts, *shown, *notes, f"Wrote {output}. Next: evomerge check {output}")


@commands.command(rich_help_panel=SEARCH)
def check(
    file: Annotated[Path, typer.Argument(help="The search file.")],
    learn_from: LearnFrom = None,
    as_json: AsJson = False,
) -> None:
    """Validate a search file and everything it names.

    Nothing is merged or scored.
    """
    from evomerge.config import load_stages

    stages = load_stages(file, files=True)  # before heavy imports, so that a typo is reported at once
    _check_one_search(stages[0].name, learn_from)
    say(LOADING)
    from evomerge.commands.check import check_search, check_stages

    if stages[0].name:
        data, lines = check_stages(stages, file, say=say)
    else:
        data, lines = check_search(stages[0].config.learning_from(learn_from or ()), file, say=say)
    show(as_json, data, *lines)


@commands.command(rich_help_panel=SEARCH)
def plan(
    file: Annotated[Path, typer.Argument(help="The search file.")],
    measure: Annotated[bool, typer.Option("--measure", help="Score candidates to measure the time.")] = False,
    learn_from: LearnFrom = None,
    as_json: AsJson = False,
) -> None:
    """Estimate time, memory, disk and statistical power.

    Statistical power is the smallest difference between two models that the held-out examples can detect. If the study
    has begun, the estimates come from its own trials.
    """
    since = time.monotonic()
    from evomerge.config import load_config

    config = load_config(file, files=True).learning_from(learn_from or ())
    say(LOADING)
    from evomerge.commands.plan import plan_search

    data, lines = plan_search(config, file, measure=measure, say=say, since=since)
    show(as_json, data, *lines)


@commands.command(rich_help_panel=SEARCH)
def bench(
    place: Annotated[Path, typer.Argument(metavar="FILE_OR_RUN", help="A search file, or the folder of a run.")],
    examples: Annotated[int, typer.Option(min=1, help="Maximum number of examples of each task to score.")] = 64,
    as_json: AsJson = False,
) -> None:
    """Measure where the time of a candidate goes.

    Scores three candidates, and takes two gradient steps where the search takes them; compares their speed with this
    machine's limits and says what to change.
    """
    say(LOADING)
    from evomerge.commands.bench import bench_search

    data, lines = bench_search(place, examples, say=say)
    show(as_json, data, *lines)


@commands.command(rich_help_panel=SEARCH)
def search(
    file: Annotated[Path, typer.Argument(help="The search file.")],
    resume: Annotated[bool, typer.Option("--resume", help="Resume the study where it stopped.")] = False,
    trials: Annotated[int | None, typer.Option(min=1, help="Total number of trials; overrides the file.")] = None,
    hours: Annotated[float | None, typer.Option(min=0.0, help="Total hours; overrides the file.")] = None,
    extend: Annotated[
        str | None,
        typer.Option(help="With --resume: how much more than spent so far, as evaluations (50) or time (2h, 30min)."),
    ] = None,
    learn_from: LearnFrom = None,
    wandb: Annotated[str | None, typer.Option(help="Also log to this Weights & Biases project.")] = None,
    mlflow: Annotated[str | None, typer.Option(help="Also log to this MLflow URI or experiment.")] = None,
    no_menu: NoMenu = False,
    as_json: AsJson = False,
) -> None:
    """Run a search, select a winner and report it.

    A file with stages is several searches in a row. In a terminal, Ctrl-C asks whether to finish now, stop or go on;
    elsewhere the first one lets running candidates finish. The second stops at once. --resume continues in any case,
    and `evomerge finish` selects among the candidates so far.
    """
    from evomerge.config import load_stages

    stages = load_stages(file, files=True)
    if stages[0].name and not (trials is None and hours is None and extend is None):
        raise typer.BadParameter("--trials, --hours and --extend are for one search; give each stage a `budget`")
    if extend is not None and not (resume and trials is None and hours is None):
        raise typer.BadParameter(
            "--extend goes with --resume, and without --trials and --hours: "
            f"evomerge search {file} --resume --extend {extend}"
        )
    _check_one_search(stages[0].name, learn_from)
    more = _extension(extend)
    say(LOADING)
    from evomerge.commands.search import run_search
    from evomerge.commands.stages import run_stages
    from evomerge.report.terminal import Terminal

    trackers = {kind: target for kind, target in (("wandb", wandb), ("mlflow", mlflow)) if target is not None}
    menu = _menu(no_menu)
    if stages[0].name:
        code = run_stages(stages, file, Terminal(), resume=resume, as_json=as_json, trackers=trackers, menu=menu)
    else:
        config = stages[0].config.with_budget(trials=trials, hours=hours).learning_from(learn_from or ())
        if more is not None:
            config = more.of(config)
        code = run_search(config, Terminal(), resume=resume, as_json=as_json, trackers=trackers, menu=menu)
    raise typer.Exit(code)


def _check_one_search(stage: str, learn_from: list[Path] | None) -> None:
    if stage and learn_from:
        raise typer.BadParameter("--learn-from is for one search; give the stages `learn_from`")


def _extension(text: str | None) -> "Extension | None":
    from evomerge.launch.extension import Extension

    return None if text is None else Extension.read(text)


@commands.command(rich_help_panel=SEARCH)
def finish(run: RunFolder, no_menu: NoMenu = False, as_json: AsJson = False) -> None:
    """End a stopped search early: select and report a winner.

    No candidate is proposed any more; those that were running when the search stopped are scored. `evomerge search
    --resume` continues the search later, as far as its budget allows.
    """
    say(LOADING)
    from evomerge.commands.finish import scored_run
    from evomerge.commands.search import run_search
    from evomerge.report.terminal import Terminal

    config = scored_run(run)
    code = run_search(config, Terminal(), resume=True, finish=True, as_json=as_json, menu=_menu(no_menu))
    raise typer.Exit(code)


def _asks_people() -> bool:
    from evomerge.commands.interruption import asks_people

    return asks_people()


def _menu(no_menu: bool) -> "Callable[[Path, Selection], None] | None":
    """Return what shows the menu at the end; None without a terminal to answer in."""
    from evomerge.commands.menu import show_menu

    if no_menu or not _asks_people():
        return None
    return lambda folder, selection: show_menu(folder, selection, lambda text: input(f"{text}: "), typer.echo)
