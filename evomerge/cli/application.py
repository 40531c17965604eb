"""The Typer application, with the options and output helpers that commands share."""

import faulthandler
import json
import os
import sys
import traceback
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any

import typer

from evomerge import __version__
from evomerge.commands.command_group import Commands
from evomerge.errors import SIGNAL
from evomerge.text.masking import masked
from evomerge.text.printable import printable

#: Sections of `evomerge --help`.
SEARCH, RESULTS, MERGE, MORE = "Search", "Results", "Merge without a search", "Plug-ins and tools"

#: Message shown during imports that take seconds.
LOADING = "loading torch and transformers"

RunFolder = Annotated[Path, typer.Argument(help="The folder of the run.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Lora = Annotated[int | None, typer.Option(min=1, help="Write a LoRA adapter of this rank instead of full weights.")]
Whole = Annotated[
    bool,
    typer.Option(
        "--modules-to-save", help="With --lora, store tensors without LoRA factors (norms, embeddings) in full."
    ),
]

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Search for the best coefficients to merge fine-tuned models.",
)


def main() -> None:
    """Run the command line."""
    # Spinning OpenMP threads make two threads ten times as slow as one when other processes share the cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Escape characters that the terminal's encoding lacks: an encoding error must not end a search.
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr] # of a process: files
    # Print a traceback on native crashes, such as SIGBUS when a memory-mapped file is truncated.
    faulthandler.enable()
    sys.excepthook = _say_trace
    try:
        app()
    except SystemExit as end:
        _leave_at_once(end)
        raise


def _leave_at_once(end: SystemExit) -> None:
    """End the process without Python's cleanup after a signal, and if it has lost the head of a Ray cluster.

    Everything is closed by then. On a busy machine the cleanup takes seconds, of which schedulers grant three; without
    its head, Ray would hang in it, then crash.
    """
    cluster: Any = sys.modules.get("evomerge.execution.ray_cluster")
    lost = cluster is not None and cluster.has_lost_a_head()
    if isinstance(end.code, int) and (lost or end.code > SIGNAL):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(end.code)


def _say_trace(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    sys.stderr.write(printable(masked("".join(traceback.format_exception(kind, error, trace)))))


def say(step: str) -> None:
    """Print the current step to stderr if it is a terminal."""
    if sys.stderr.isatty():
        typer.echo(f"{step} ...", err=True)


def show(as_json: bool, data: dict[str, Any], *lines: str) -> None:
    """Print the result of a command as one JSON object or as lines of text."""
    typer.echo(json.dumps(data, allow_nan=False, default=str) if as_json else printable("\n".join(lines)))


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
    """Search for the best coefficients to merge fine-tuned models."""
