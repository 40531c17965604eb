"""What every command does alike: a word before imports that take seconds, and one when it is interrupted."""

import io
import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from evaluators import _strict_yaml as strict_yaml
from evomerge.cli import app, application
from tests.toys import search_file


class Interrupted:
    """A module whose import Ctrl-C interrupts."""

    def __getattr__(self, name: str) -> object:
        raise KeyboardInterrupt


@pytest.mark.parametrize("command", ["check", "plan", "search"])
def test_slow_imports_print_a_line_and_can_be_interrupted(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, said = tmp_path / "search.yaml", []
    file.write_text(strict_yaml.dump(search_file(tmp_path)))
    monkeypatch.setattr("evomerge.cli.search.say", said.append)
    monkeypatch.setitem(sys.modules, f"evomerge.commands.{command}", Interrupted())
    done = CliRunner().invoke(app, [command, str(file)])
    assert (done.exit_code, done.stderr.strip(), said) == (130, "Interrupted.", [application.LOADING])
    done = CliRunner().invoke(app, [command, str(file), "--json"])
    assert json.loads(done.stdout) == {"event": "error", "error": "Interrupted.", "code": 130}


def test_current_step_is_printed_on_terminals_only(monkeypatch: pytest.MonkeyPatch) -> None:
    for terminal in (False, True):
        stream = io.StringIO()
        stream.isatty = lambda answer=terminal: answer  # type: ignore[method-assign]
        monkeypatch.setattr(sys, "stderr", stream)
        application.say("loading")
        assert stream.getvalue() == ("loading ...\n" if terminal else "")
