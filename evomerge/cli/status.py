"""Commands that inspect a live or finished run. Heavy imports are local to the command bodies."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from evomerge.cli.application import RESULTS, AsJson, RunFolder, say, show

commands = typer.Typer()


@commands.command(rich_help_panel=RESULTS)
def status(
    run: RunFolder,
    plot: Annotated[bool, typer.Option("--plot", help="Plot the progress to progress.png in the run folder.")] = False,
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
        # Output to a file has no width; the default of 80 columns would wrap the labels.
        Terminal(width=None if sys.stdout.isatty() else 120).print(text)


@commands.command(rich_help_panel=RESULTS)
def report(
    run: RunFolder,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The file to write; by default report.html in the run folder.")
    ] = None,
    open_: Annotated[bool, typer.Option("--open", help="Open the report in a browser.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a file that is not a report; reports are always replaced.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write an HTML report of a study.

    One self-contained file with verdict, front, coefficients, comparisons, failures and cost, also for unfinished
    studies.
    """
    # Only tensor names are read from the models: never download one for that.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from evomerge.commands.report import write_report
    from evomerge.run import Run

    data = write_report(Run(run), output, overwrite=overwrite, browser=open_, say=say)
    notes = [data["note"]] if data["note"] else []
    show(as_json, data, *notes, data["verdict"], f"Wrote {data['report']}")


@commands.command(rich_help_panel=RESULTS)
def dashboard(
    run: RunFolder,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8080,
    host: Annotated[
        str, typer.Option(help="Address to listen on; by default only this machine can connect. There is no login.")
    ] = "127.0.0.1",
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Do not open a browser.")] = False,
    export: Annotated[
        Path | None, typer.Option("--export", help="Write an Optuna study (.db or .log) instead of serving it.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="With --export, replace an existing file.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show a run in optuna-dashboard, live.

    The dashboard only reads the run: stopping it does not affect the search.
    """
    from evomerge.study.lines import ledger_of

    ledger_of(run)  # before heavy imports, so that a wrong folder is reported at once
    # Only tensor names are read from the models: never download one for that.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from evomerge.commands.dashboard import export_view, is_local, serve
    from evomerge.run import Run

    if export is not None:
        trials = export_view(Run(run), export, overwrite=overwrite)
        show(as_json, {"file": str(export), "trials": trials}, f"Wrote {trials} trials to {export}")
        return

    def say(address: str, view: Any) -> None:
        data = {"url": address, "study": str(run), "trials": view.size}
        notes = []
        if not is_local(host):
            data["warning"] = (
                f"anyone who reaches {address} can read this study: the dashboard has no login and no encryption. "
                "From elsewhere, leave --host out and use a tunnel: ssh -L 8080:127.0.0.1:8080 MACHINE."
            )
            notes = [f"warning: {data['warning']}"]
        show(as_json, data, f"{address} shows {run} ({view.size} trials so far); Ctrl-C stops the dashboard", *notes)

    serve(Run(run), host, port, browser=not no_browser, say=say)
