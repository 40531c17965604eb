"""The command line. Commands only parse and print; what they do is in `evomerge.commands`."""

from evomerge.cli import merge, plugins, report, results, search, status, tools
from evomerge.cli.application import app, main

__all__ = ["app", "main"]

for part in (search, results, merge, tools, report, status, plugins):
    app.add_typer(part.commands)
