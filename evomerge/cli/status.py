"""Commands that look at a run while it goes on, or afterwards. Every heavy import is in a body."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from evomerge.cli.application import RESULTS, AsJson, say, show

commands = typer.Typer()


@commands.command(rich_help_panel=RESULTS)
def status(
    run: Annotated[Path, typer.Argument(help="The folder of the run.")],
    plot: Annotated[bool, typer.Option("--plot", help="Draw progress.png in the folder of the run.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the state and results of a study."""
    from evomerge.commands.status import study_status
    from evomerge.report.terminal import Terminal
    from evomerge.run import Run

    data, text = study_status(Run(run), plot=plot)
    if as_json:
        show(as_json, data)
    else:
        # A file has no width; eighty columns would break the labels.
        Terminal(width=None if sys.stdout.isatty() else 120).print(text)


@commands.command(rich_help_panel=RESULTS)
def report(
    run: Annotated[Path, typer.Argument(help="The folder of the run.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The file to write; report.html in the run by default.")
    ] = None,
    open_: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace another file that is there; a report always is replaced.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write a study as one HTML file.

    Verdict, front, coefficients, comparisons, failures and cost, of unfinished studies too; it needs no network.
    """
    # The models are asked for names; where they are not on this machine, that is not worth a download.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from evomerge.commands.report import write_report
    from evomerge.run import Run

    data = write_report(Run(run), output, overwrite=overwrite, browser=open_, say=say)
    notes = [data["note"]] if data["note"] else []
    show(as_json, data, *notes, data["verdict"], f"Wrote {data['report']}")


@commands.command(rich_help_panel=RESULTS)
def dashboard(
    run: Annotated[Path, typer.Argument(help="The folder of the run.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="Where to listen; 0 takes a free port.")] = 8080,
    host: Annotated[
        str, typer.Option(help="The address to listen on; the default is this machine only.")
    ] = "127.0.0.1",
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Do not open a browser.")] = False,
    export: Annotated[
        Path | None, typer.Option("--export", help="Write an Optuna study (.db or .log) and serve nothing.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="With --export: replace a file.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show a run in optuna-dashboard, live.

    It only reads: closing it, or killing it, changes nothing for the search.
    """
    from evomerge.study.lines import ledger_of

    ledger_of(run)  # before anything heavy: a wrong folder is told at once
    # The models are asked for names; where they are not on this machine, that is not worth a download.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from evomerge.commands.dashboard import export_view, serve
    from evomerge.run import Run

    if export is not None:
        trials = export_view(Run(run), export, overwrite=overwrite)
        show(as_json, {"file": str(export), "trials": trials}, f"Wrote {trials} trials to {export}")
        return

    def say(address: str, view: Any) -> None:
        data = {"url": address, "study": str(run), "trials": view.size}
        show(as_json, data, f"{address} shows {run} ({view.size} trials so far); Ctrl-C ends it")

    serve(Run(run), host, port, browser=not no_browser, say=say)
