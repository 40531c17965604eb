"""`evomerge list`, and its older spellings. Every heavy import is in a body."""

import json
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from evomerge.cli.application import MORE, AsJson

commands = typer.Typer()

#: What a person types -> the sort of plug-in, as `plugins` calls it.
KINDS = {"methods": "merge method", "spaces": "search space", "evaluators": "evaluator", "optimizers": "optimizer"}

Markdown = Annotated[bool, typer.Option("--markdown", help="The table of methods in the documentation.")]


def _kinds() -> list[str]:
    return list(KINDS)


def _names(ctx: typer.Context) -> list[str]:
    """Names of the kind typed before, or of the kind that the command is named after."""
    from evomerge import plugins

    kind = ctx.params.get("kind", ctx.info_name)
    return list(plugins.names(KINDS[kind])) if kind in KINDS else []


@commands.command("list", rich_help_panel=MORE)
def list_(
    kind: Annotated[
        str | None, typer.Argument(autocompletion=_kinds, help=f"One of {', '.join(KINDS)}; all by default.")
    ] = None,
    name: Annotated[
        str | None, typer.Argument(autocompletion=_names, help="One of them in full; or your own, `module:name`.")
    ] = None,
    markdown: Markdown = False,
    as_json: AsJson = False,
) -> None:
    """List methods, spaces, evaluators, optimizers and their options.

    Without a kind only names; with a kind what each is and takes; with a name everything about one.
    """
    if markdown and kind != "methods":
        raise typer.BadParameter("--markdown prints the table of methods: evomerge list methods --markdown")
    from evomerge.commands.list_plugins import as_markdown, describe, overview

    if markdown:
        typer.echo(as_markdown())
        return
    data, text = overview(KINDS) if kind is None else describe(KINDS, kind, name)
    if as_json:
        typer.echo(json.dumps(data))
        return
    from evomerge.report.terminal import Terminal

    Terminal(width=None if sys.stdout.isatty() else 160).print(text)


def _alias(kind: str) -> Callable[..., None]:
    def command(
        name: Annotated[str | None, typer.Argument(autocompletion=_names, help="One of them in full.")] = None,
        markdown: Markdown = False,
        as_json: AsJson = False,
    ) -> None:
        list_(kind, name, markdown=markdown, as_json=as_json)

    command.__doc__ = f"An older spelling of `evomerge list {kind}`."
    return command


for _kind in KINDS:
    commands.command(_kind, hidden=True)(_alias(_kind))
