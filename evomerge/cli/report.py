"""`evomerge report`. Every heavy import is in a body."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from evomerge.cli.application import AsJson, show

commands = typer.Typer()


@commands.command()
def report(
    run: Annotated[Path, typer.Argument(help="The folder of the run.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The file to write; report.html in the run by default.")
    ] = None,
    open_: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a study as one HTML file.

    Verdict, front, coefficients, comparisons, failures and cost, of unfinished studies too; it needs no network.
    """
    # The models are asked for names; where they are not on this machine, that is not worth a download.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from evomerge.commands.report import write_report

    def say(step: str) -> None:
        if sys.stderr.isatty():
            typer.echo(f"{step} ...", err=True)

    data = write_report(run, output, browser=open_, say=say)
    notes = [data["note"]] if data["note"] else []
    show(as_json, data, *notes, data["verdict"], f"Wrote {data['report']}")
