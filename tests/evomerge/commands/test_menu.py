"""The menu at the end of a search: its entries are commands that the command line accepts."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import typer

from evomerge.cli import app
from evomerge.commands.menu import _best_parent, show_menu
from evomerge.run import Run
from tests.evomerge.searches import run_here, write_search


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("menu")
    run_here(write_search(folder, trials=8, delay=0.0))
    return folder / "study"


def commands(run: Path, answers: Iterator[str], code: int = 0) -> list[tuple[str, ...]]:
    """The commands that the menu runs for these answers; each is accepted as it stands."""
    ran: list[tuple[str, ...]] = []

    def execute(arguments: tuple[str, ...]) -> int:
        ran.append(arguments)
        found = typer.main.get_command(app).commands[arguments[0]]  # type: ignore[attr-defined]
        found.make_context(found.name, list(arguments[1:]))
        return code

    def ask(question: str) -> str:
        try:
            return next(answers)
        except StopIteration:
            raise EOFError from None

    selection = Run(run).selection
    assert selection is not None
    show_menu(run, selection, ask, lambda _: None, execute)
    return ran


def test_each_entry_runs_a_command(finished: Path, tmp_path: Path) -> None:
    run, merged = str(finished), str(tmp_path / "merged")
    answers = ["c", "d", "", "", "?", "r", "e", merged, "p", merged, "me/merge", "mit", "q", "c"]
    parent = next(model.label for model in Run(finished).selection.models if model.is_parent)
    export = ("export", run, "-o", merged)
    assert commands(finished, iter(answers)) == [
        ("chat", run, "--beside", parent),
        ("compare", run, "winner", parent),
        ("report", run, "--open"),
        export,
        export,
        ("publish", merged, "--repo", "me/merge", "--license", "mit"),
    ]


def test_a_command_that_fails_is_not_followed_by_others(finished: Path, tmp_path: Path) -> None:
    merged = str(tmp_path / "merged")
    ran = commands(finished, iter(["p", merged, "me/merge", ""]), code=2)
    assert ran == [("export", str(finished), "-o", merged)]


def test_an_export_that_is_there_is_published(finished: Path, tmp_path: Path) -> None:
    assert commands(finished, iter(["p", str(tmp_path), "me/merge", ""])) == [
        ("publish", str(tmp_path), "--repo", "me/merge")
    ]


def test_a_parent_that_wins_is_not_its_own_best_parent(finished: Path) -> None:
    selection = Run(finished).selection
    assert selection is not None
    first, second = [model for model in selection.models if model.is_parent][:2]
    assert _best_parent(replace(selection, winner=first.trial)) == second.label
    assert _best_parent(replace(selection, winner=second.trial)) == first.label


def test_ctrl_c_leaves_the_menu(finished: Path) -> None:
    selection = Run(finished).selection
    assert selection is not None

    def interrupted(question: str) -> str:
        raise KeyboardInterrupt

    show_menu(finished, selection, interrupted, lambda _: None)
