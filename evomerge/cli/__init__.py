"""The command line. Commands only parse and print; what they do is in `evomerge.commands`."""

from evomerge.cli import merging, preparing, searching
from evomerge.cli.application import app, main

__all__ = ["app", "main"]

for part in (searching, merging, preparing):
    app.add_typer(part.commands)
