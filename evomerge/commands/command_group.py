"""Mapping of expected errors to one message and an exit code, for all commands."""

import json
import signal
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

from evomerge.durable import is_trouble, trouble
from evomerge.errors import SIGNAL, USAGE, exit_code
from evomerge.text.masking import masked
from evomerge.text.printable import printable

#: Exception for a wrong command line; typer does not export it.
_UsageError: Any = typer.BadParameter.__bases__[0]


def _said(error: BaseException) -> str:
    if isinstance(error, OSError) and is_trouble(error):
        place = error.filename or Path.cwd() / "output"
        return f"Cannot write {place if error.filename else 'the output'}: {trouble(error, Path(place))}"
    return str(error)


class Commands(TyperGroup):
    """Command group that turns an expected error into one message on stderr, or with `--json` one object on stdout.

    `--debug` shows the traceback.
    """

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        """Run the command that was asked for. Raises typer.Exit with the code of an expected error."""
        as_json = "--json" in ctx.args
        try:
            return super().invoke(ctx)
        except _UsageError as error:
            if not as_json:
                raise
            code, message = USAGE, error.format_message()
        except KeyboardInterrupt:
            code, message = SIGNAL + signal.SIGINT, "Interrupted."
        except BrokenPipeError:
            raise  # the reader of the output has gone
        except (ValueError, OSError) as error:
            found = exit_code(error)
            if found is None or ctx.params.get("debug"):
                raise
            code, message = found, masked(_said(error))
        if as_json:
            typer.echo(json.dumps({"event": "error", "error": message, "code": code}))
        else:
            # The terminal has echoed ^C at the cursor: begin a new line.
            typer.echo(f"\n{message}" if code > SIGNAL else printable(f"error: {message}"), err=True)
        raise typer.Exit(code)

    def format_commands(self, _ctx: typer.Context, formatter: Any) -> None:  # type: ignore[override]
        """Write the commands that are not hidden, in sections by their panel, in the order of their declaration."""
        sections: dict[str, list[tuple[str, str]]] = {}
        shown = [(name, command) for name, command in self.commands.items() if not command.hidden]
        limit = formatter.width - 6 - max(len(name) for name, _ in shown)
        for name, command in shown:
            panel = getattr(command, "rich_help_panel", None) or "Commands"
            sections.setdefault(panel, []).append((name, command.get_short_help_str(limit)))
        for panel, rows in sections.items():
            with formatter.section(panel):
                formatter.write_dl(rows)
