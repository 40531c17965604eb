"""The command line. Commands only parse and print; `evomerge.commands` implements them."""

from evomerge.cli import list_plugins, merge, results, search, status, tools
from evomerge.cli.application import app, main

__all__ = ["app", "main"]

for part in (search, status, results, merge, list_plugins, tools):
    app.add_typer(part.commands)
