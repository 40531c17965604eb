"""`evomerge list` and its former names, `evomerge schema`. Heavy imports are local to the command bodies."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from evomerge.cli.application import MORE, AsJson

commands = typer.Typer()

#: Command-line name -> kind of plug-in as used in `plugins`.
KINDS = {"methods": "merge method", "spaces": "search space", "evaluators": "evaluator", "optimizers": "optimizer"}

Markdown = Annotated[
    bool, typer.Option("--markdown", help="With KIND, print the Markdown table used in the documentation.")
]


def _kinds() -> list[str]:
    return list(KINDS)


def _names(ctx: typer.Context) -> list[str]:
    """Complete plug-in names of the kind given before, or of the kind in the command's own name."""
    from evomerge import plugins

    kind = ctx.params.get("kind", ctx.info_name)
    return list(plugins.names(KINDS[kind])) if kind in KINDS else []


@commands.command("list", rich_help_panel=MORE)
def list_(
    kind: Annotated[
        str | None, typer.Argument(autocompletion=_kinds, help=f"One of {', '.join(KINDS)}; all by default.")
    ] = None,
    name: Annotated[
        str | None, typer.Argument(autocompletion=_names, help="Show one plug-in in full; your own as `module:name`.")
    ] = None,
    markdown: Markdown = False,
    as_json: AsJson = False,
) -> None:
    """List methods, spaces, evaluators, optimizers and their options.

    Without KIND, only names; with KIND, a summary of each plug-in; with NAME, all details of one.
    """
    if markdown and (kind not in KINDS or name is not None):
        raise typer.BadParameter(
            f"--markdown prints the table of one kind: evomerge list {next(iter(KINDS))} --markdown"
        )
    if markdown:
        from evomerge.commands import plugin_cards
        from evomerge.merging import catalogue

        if kind == "methods":
            typer.echo(catalogue.markdown(catalogue.catalogue()))
        else:
            what = KINDS[str(kind)]
            typer.echo(plugin_cards.markdown(what, plugin_cards.cards(what)))
        return
    from evomerge.commands.list_plugins import describe, overview

    data, text = overview(KINDS) if kind is None else describe(KINDS, kind, name)
    if as_json:
        typer.echo(json.dumps(data))
        return
    from evomerge.report.terminal import Terminal

    Terminal(width=None if sys.stdout.isatty() else 160).print(text)


@commands.command(rich_help_panel=MORE)
def schema(
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write it to this file instead.")] = None,
) -> None:
    """Print the JSON schema of search files, for editors.

    A first line `# yaml-language-server: $schema=FILE` in a search file makes editors complete and check its keys.
    """
    from evomerge.config.schema import search_schema
    from evomerge.durable import write_text

    text = json.dumps(search_schema(), indent=2)
    if output is None:
        typer.echo(text)
    else:
        write_text(output, f"{text}\n")


def _alias(kind: str) -> Callable[..., None]:
    def command(
        name: Annotated[str | None, typer.Argument(autocompletion=_names, help="Show one plug-in in full.")] = None,
        markdown: Markdown = False,
        as_json: AsJson = False,
    ) -> None:
        list_(kind, name, markdown=markdown, as_json=as_json)

    command.__doc__ = f"Former name of `evomerge list {kind}`."
    return command


for _kind in KINDS:
    commands.command(_kind, hidden=True)(_alias(_kind))
