"""Every error of ours has an exit code, and scripts can rely on it."""

import importlib
import pkgutil

import pytest
from typer.testing import CliRunner

import evaluators
import evomerge
import search_spaces
from evomerge.cli import app
from evomerge.errors import exit_code
from evomerge.merging.models.header import CheckpointError
from evomerge.recipe import RecipeError
from evomerge.study.lines import StudyBusy, StudyExists, StudyPaused

#: Raised and caught inside, or raised by misuse of a function and not by a user.
INTERNAL = {"NonFiniteScore", "NoReference", "TrackerError", "TrackerRefused"}


def own_errors() -> list[type[BaseException]]:
    found: dict[str, type[BaseException]] = {}
    for package in (evomerge, evaluators, search_spaces):
        for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
            values = vars(importlib.import_module(module.name)).values()
            kinds = [v for v in values if isinstance(v, type) and issubclass(v, BaseException)]
            ours = [kind for kind in kinds if kind.__module__.split(".")[0] == package.__name__]
            found.update({kind.__qualname__: kind for kind in ours})
    return list(found.values())


def test_every_error_of_ours_has_an_exit_code() -> None:
    without = {kind.__name__ for kind in own_errors() if not isinstance(getattr(kind, "exit_code", None), int)}
    assert {name for name in without if not name.startswith("_")} == INTERNAL


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RecipeError("x"), 2),
        (CheckpointError("x"), 3),
        (StudyBusy("x"), 4),
        (StudyPaused("x"), 5),
        (StudyExists("x"), 2),
        (FileNotFoundError("x"), 2),
        (ZeroDivisionError("ours"), None),
        (ValueError("ours"), None),
    ],
)
def test_exit_codes(error: Exception, code: int | None) -> None:
    assert exit_code(error) == code


def test_the_errors_of_a_leaf_end_a_command_with_one_message() -> None:
    done = CliRunner().invoke(app, ["init", "base", "expert", "--task", "{evaluator: x"])
    assert (done.exit_code, done.stderr[:32]) == (2, "error: --task:1: not valid YAML:")
