"""The lists of plug-ins on the command line: what every one says of itself, its options, and tab completion."""

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from evaluators.exact_match import ExactMatch
from evaluators.synthetic import Synthetic
from evomerge import plugins
from evomerge.cli import app
from evomerge.optimizers.nsga2 import Nsga2

KINDS = {"evaluators": "evaluator", "optimizers": "optimizer", "spaces": "search space"}


def shown(*arguments: str) -> str:
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.parametrize("command", KINDS)
def test_every_plugin_says_in_one_line_what_it_is(command: str) -> None:
    found = json.loads(shown("list", command, "--json"))
    assert [item["name"] for item in found] == list(plugins.names(KINDS[command]))
    text = shown("list", command)
    for item in found:
        assert item["title"], item["name"]
        assert item["about"], item["name"]
        assert item["name"] in text


def test_options_are_those_of_the_constructor_with_their_defaults() -> None:
    (found,) = json.loads(shown("list", "evaluators", "exact_match", "--json"))
    assert [option.partition(":")[0] for option in found["options"]] == list(inspect.signature(ExactMatch).parameters)
    assert {"file: required", "max_new_tokens: 32", "limit: null", "strip: true"} <= set(found["options"])
    (found,) = json.loads(shown("list", "evaluators", "model_size", "--json"))
    assert found["options"] == ["unit: bytes (or parameters)"]
    (found,) = json.loads(shown("list", "optimizers", "nsga2", "--json"))
    assert (found["options"], found["takes"]) == (["population: 10"], "1 or more objectives")
    assert Nsga2.max_objectives is None
    (found,) = json.loads(shown("list", "spaces", "smooth", "--json"))
    assert found["options"] == ["points: 4", "ranges: null", "freeze: null", "tie: []", "start: null"]


def test_ranges_are_printed_as_they_are_written() -> None:
    text = shown("list", "methods")
    assert "[0, 1]" in text
    assert "\\[" not in text


def test_a_card_explains_options_and_shows_an_example() -> None:
    text = shown("list", "evaluators", "exact_match")
    assert "ignore_case: Whether to ignore case" in " ".join(text.split())
    assert "evaluator: exact_match" in text
    assert "freeze: Group pattern" in shown("list", "spaces", "uniform"), (
        "what all spaces take is said by those without more"
    )
    assert (
        "1 objective\n"
        in "\n".join(line.rstrip() for line in shown("list", "optimizers", "cma_es").splitlines()) + "\n"
    )


@pytest.mark.parametrize("command", KINDS)
def test_cards_leave_out_errors_and_contract_arguments(command: str) -> None:
    for item in json.loads(shown("list", command, "--json")):
        assert "Raises" not in item["about"], item["name"]
        assert "Build the space" not in item["about"], item["name"]
        for given in ("Args:", "dimension: ", "layout: ", "Example:"):
            assert given not in item["about"], item["name"]


class Warming(Synthetic):
    """Warms.

    Raises the temperature. Raises ValueError for text such as 1.5
    or less. Goes on.
    """


def test_cards_keep_sentences_that_only_look_like_errors() -> None:
    (own,) = json.loads(shown("list", "evaluators", f"{__name__}:Warming", "--json"))
    assert own["about"] == "Warms.\n\nRaises the temperature. Goes on."


def test_cards_of_own_and_of_unknown_plugins() -> None:
    (own,) = json.loads(shown("list", "evaluators", "evaluators.synthetic:Synthetic", "--json"))
    assert "noise: none (or binomial)" in own["options"]
    wrong = CliRunner().invoke(app, ["list", "optimizers", "cmaes"])
    assert wrong.exit_code == 2
    assert "Did you mean 'cma_es'?" in wrong.stderr


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("list e", ["evaluators"]),
        ("list optimizers ns", ["nsga2", "nsga3"]),
        ("list methods tie", ["ties"]),
        ("evaluators ex", ["exact_match"]),
        ("spaces si", ["simplex"]),
    ],
)
def test_the_shell_completes_names(typed: str, expected: list[str]) -> None:
    script = Path(sys.executable).with_name("evomerge")
    asked = {
        "_EVOMERGE_COMPLETE": "complete_bash",
        "COMP_WORDS": f"evomerge {typed}",
        "COMP_CWORD": str(typed.count(" ") + 1),
    }
    done = subprocess.run([str(script)], capture_output=True, text=True, env={**os.environ, **asked}, check=False)
    assert done.stdout.split() == expected, done.stderr


def test_without_a_kind_it_lists_all_names() -> None:
    found = json.loads(shown("list", "--json"))
    assert found["methods"] == list(plugins.names("merge method"))
    assert found.keys() == {"methods", *KINDS}
    text = " ".join(shown("list").split())
    assert all(name in text for names in found.values() for name in names)


def test_a_name_given_as_kind_gets_the_right_command() -> None:
    wrong = CliRunner().invoke(app, ["list", "ties"])
    assert wrong.exit_code == 2
    assert "there are methods, spaces, evaluators, optimizers. `evomerge list methods ties` describes" in wrong.stderr
    assert "Did you mean 'methods'?" in CliRunner().invoke(app, ["list", "method"]).stderr


@pytest.mark.parametrize("kind", ["methods", *KINDS])
def test_older_spellings_give_the_same(kind: str) -> None:
    (name, *_) = plugins.names(KINDS.get(kind, "merge method"))
    assert shown(kind, name, "--json") == shown("list", kind, name, "--json")
    assert shown(kind, name) == shown("list", kind, name)
