"""Commands that look at a run while it goes on, or afterwards. Every heavy import is in a body."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from evomerge.cli.application import AsJson, show

commands = typer.Typer()


@commands.command()
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

    if export is not None:
        trials = export_view(run, export)
        show(as_json, {"file": str(export), "trials": trials}, f"Wrote {trials} trials to {export}")
        return

    def say(address: str, view: Any) -> None:
        data = {"url": address, "study": str(run), "trials": view.size}
        show(as_json, data, f"{address} shows {run} ({view.size} trials so far); Ctrl-C ends it")

    serve(run, host, port, browser=not no_browser, say=say)
