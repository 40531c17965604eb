"""Every error of ours has an exit code, and scripts can rely on it."""

import importlib
import pkgutil

import pytest

import evaluators
import evomerge
import search_spaces
from evomerge.commands import exit_codes
from evomerge.merging.models.header import CheckpointError
from evomerge.recipe import RecipeError
from evomerge.study.lines import StudyBusy, StudyExists, StudyPaused

#: Raised and caught inside, or raised by misuse of a function and not by a user.
INTERNAL = {"StrictYamlError", "NonFiniteScore", "NoReference", "TrackerError", "TrackerRefused"}


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
    missing = [
        kind.__name__
        for kind in own_errors()
        if kind.__name__ not in INTERNAL and not kind.__name__.startswith("_") and not coded(kind)
    ]
    assert missing == []


def coded(kind: type[BaseException]) -> bool:
    return any(base.__name__ in exit_codes._CODES for base in kind.__mro__)


def test_every_code_is_of_an_error_that_there_is() -> None:
    known = {base.__name__ for kind in own_errors() for base in kind.__mro__} | {"OSError"}
    assert set(exit_codes._CODES) - known == set()


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
    assert exit_codes.exit_code(error) == code
