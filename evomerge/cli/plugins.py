"""Commands that say what there is to merge and search with. Every heavy import is in a body."""

import json
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from evomerge.cli.application import AsJson

commands = typer.Typer()


def _named(what: str, help_: str) -> Any:
    """An argument that the shell completes with the names of the plug-ins of a sort."""

    def complete(incomplete: str) -> list[str]:
        from evomerge import plugins

        return [name for name in plugins.names(what) if name.startswith(incomplete)]

    return typer.Argument(help=help_, autocompletion=complete)


@commands.command()
def methods(
    name: Annotated[str | None, _named("merge method", "One method, in full.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="The table of the documentation.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the merge methods with their coefficients and options.

    What each needs, its coefficients with their search bounds, its options.
    """
    from evomerge.commands.list_plugins import as_markdown, describe

    if markdown:
        typer.echo(as_markdown())
        return
    _print(as_json, *describe(name))


def _list_of(what: str, help_: str, argument: str) -> Callable[..., None]:
    """The command that lists plug-ins of a sort, or describes one of them in full."""

    def command(name: Annotated[str | None, _named(what, argument)] = None, as_json: AsJson = False) -> None:
        from evomerge.commands.list_plugins import describe_plugins

        _print(as_json, *describe_plugins(what, name))

    command.__doc__ = help_
    return command


for _command, _what, _help in (
    ("evaluators", "evaluator", "List what a merge can be scored by, with options."),
    ("optimizers", "optimizer", "List the optimizers with their options."),
    ("spaces", "search space", "List the search spaces with their options."),
):
    commands.command(_command)(_list_of(_what, _help, "One of them, in full; or `module:name` of your own."))


def _print(as_json: bool, data: list[dict[str, Any]], text: Any) -> None:
    if as_json:
        typer.echo(json.dumps(data))
        return
    from evomerge.report.terminal import Terminal

    Terminal(width=None if sys.stdout.isatty() else 160).print(text)
