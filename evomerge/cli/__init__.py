"""The command line. Commands only parse and print; what they do is in `evomerge.commands`."""

from evomerge.cli import choosing, describing, merging, preparing, reporting, searching, watching
from evomerge.cli.application import app, main

__all__ = ["app", "main"]

for part in (searching, choosing, merging, preparing, reporting, watching, describing):
    app.add_typer(part.commands)
