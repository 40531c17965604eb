"""GRAMMAR.md has every name that ledgers hold: those of the golden runs, and those that the code writes."""

import ast
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import evomerge
from evomerge.config import SearchConfig
from evomerge.plugins import names
from evomerge.trial import Origin
from tests.golden.runs import RUNS, ledger

PACKAGE = Path(evomerge.__file__).parent
SOURCES = [*PACKAGE.rglob("*.py"), *PACKAGE.parent.glob("evaluators/*.py"), *PACKAGE.parent.glob("search_spaces/*.py")]
PAGE = next(PACKAGE.rglob("GRAMMAR.md")).read_text(encoding="utf-8")
#: The name of a method or class that is called -> which of its arguments is stored, and as what.
WRITERS = {"event": (0, "event"), "_note": (0, "event"), "Failure": (0, "failure"), "failed": (0, "failure")}
#: Who has a method `event` and is no study: the view of a running search.
VIEWS = ("view", "_view")


def section(title: str) -> str:
    """The text under a heading of the page."""
    return PAGE.partition(f"## {title}\n")[2].partition("\n## ")[0]


def words(text: str) -> set[str]:
    """The names that a text marks as code."""
    return set(re.findall(r"`([^`\n]+)`", text))


@pytest.mark.parametrize("name", RUNS)
def test_the_page_has_every_name_in_a_golden_ledger(name: str) -> None:
    records = [json.loads(line) for line in ledger(name)]
    states, events = words(section("Records that build the state")), words(section("Events"))
    labels, failures = words(section("Labels")), words(section("Failures"))
    assert set(records[0]) <= words(section("Lines"))
    for record in records:
        kind, data = record["kind"], record["data"]
        assert kind in states | events
        assert data.keys() <= (states if kind in states else events)
        if kind == "created":
            assert data["configuration"].keys() <= words(section("Configuration"))
            assert data["environment"].keys() <= states
            assert {key for pin in data.get("inputs", {}).values() for key in pin} <= states
        elif kind == "asked":
            assert pattern(data["label"]) in labels
            assert data["split"] in states
        elif kind == "told":
            assert all(scores.keys() <= states for scores in data["scores"].values())
            assert {stage.partition(":")[0] for stage in data["seconds"]} <= {"merge", "evaluate"}
            for event in data["events"]:
                assert event["event"] in events
                assert event.keys() - {"event"} <= events
            assert data["failure"] is None or data["failure"]["kind"] in failures


def pattern(label: str) -> str:
    """How the page writes a label: `parent:NAME` for `parent:math`."""
    head, colon, _ = label.partition(":")
    what = {"parent": "NAME", "task_arithmetic": "SCALE", "rerun": "LABEL"}.get(head, "N")
    return f"{head}:{what}" if colon else head


def test_the_page_has_every_event_and_kind_of_failure_that_the_code_writes() -> None:
    written = set(stored())
    events = {name for what, name in written if what == "event"}
    assert {"opened", "paused", "selected", "same_model", "worker_died", "objectives", "coordinates"} <= events
    assert events <= words(section("Events"))
    failures = {name for what, name in written if what == "failure"}
    assert failures >= {"nonfinite", "timeout"}
    assert failures <= words(section("Failures"))


@cache
def trees() -> list[ast.Module]:
    """The modules that may write to a ledger."""
    writing = re.compile(r"\.event\(|\"event\"|Failure\(")
    texts = (path.read_text(encoding="utf-8") for path in SOURCES)
    return [ast.parse(text) for text in texts if writing.search(text)]


def stored() -> Iterator[tuple[str, str]]:
    """(what, name) of all names that are written as literals or as constants of a module."""
    for tree in trees():
        constants = {
            target.id: node.value.value
            for node in tree.body
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for node in ast.walk(tree):
            for what, value in _names_in(node):
                name = value.value if isinstance(value, ast.Constant) else constants.get(getattr(value, "id", ""))
                if isinstance(name, str):
                    yield what, name


def _names_in(node: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    if isinstance(node, ast.Call) and node.args:
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        owner = getattr(node.func, "value", None)
        if called in WRITERS and getattr(owner, "attr", getattr(owner, "id", "")) not in VIEWS:
            place, what = WRITERS[called]
            yield what, node.args[place]
    # In the outcome of a trial an event is a mapping; in the output of a command it has a message.
    if isinstance(node, ast.Dict):
        keys = [key.value for key in node.keys if isinstance(key, ast.Constant)]
        if "event" in keys and "trial" in keys:
            yield "event", node.values[keys.index("event")]


def test_the_page_has_every_origin_of_a_trial() -> None:
    origins = {origin.value for origin in Origin} - {Origin.BASELINE.value}  # which stands for all other words
    assert origins <= {label.partition(":")[0] for label in words(section("Labels"))}


def test_the_page_has_every_key_of_a_search_file() -> None:
    assert SearchConfig.model_fields.keys() <= words(section("Configuration"))


@pytest.mark.parametrize(
    ("title", "what"),
    [("optimizers", "optimizer"), ("spaces", "search space"), ("evaluators", "evaluator"), ("methods", "merge method")],
)
def test_a_plugin_that_a_ledger_may_name_stays(title: str, what: str) -> None:
    listed = words(section("Configuration").partition(f"* {title}: ")[2].partition("\n*")[0])
    assert listed
    assert listed <= set(names(what))


def test_an_exception_that_a_ledger_may_name_stays() -> None:
    named = {word for word in words(section("Failures")) if word.endswith("Error")}
    source = "\n".join(path.read_text(encoding="utf-8") for path in SOURCES)
    assert len(named) > 5
    assert {name for name in named if f"class {name}(" not in source} == set()
