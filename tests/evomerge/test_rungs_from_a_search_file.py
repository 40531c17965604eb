"""Searches by rungs from the command line: what is refused, and what a finished one shows."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from evaluators import _strict_yaml as strict_yaml
from evomerge.cli import app
from evomerge.study import Study
from tests.evomerge.searches import run_here
from tests.toys import search_file

TASKS = {
    "one": {"evaluator": "synthetic", "n_examples": 400, "noise": "binomial", "fail": 0.05},
    "two": {"evaluator": "synthetic", "task": 1, "n_examples": 200, "noise": "binomial"},
}


def write(folder: Path, **changes: Any) -> Path:
    file = folder / "search.yaml"
    settings = {"tasks": TASKS, "optimizer": "hyperband", "budget": {"trials": 16}, **changes}
    file.write_text(strict_yaml.dump(search_file(folder, **settings)), encoding="utf-8")
    return file


def test_a_finished_search_shows_its_whole_candidates_only(tmp_path: Path) -> None:
    run_here(write(tmp_path))
    study = Study.read(tmp_path / "study")
    whole = {e.trial.number for e in study.told if e.trial.split == "search" and e.trial.extends is not None}
    assert whole
    assert len(study.parts) > 10
    shown = {}
    for command in ("status", "pareto", "report"):
        done = CliRunner().invoke(app, [command, str(study.folder), "--json"])
        assert done.exit_code == 0, done.output
        shown[command] = json.loads(done.stdout)
    labels = {model["label"] for model in shown["pareto"]["points"]}
    assert {f"trial:{number}" for number in study.parts}.isdisjoint(labels)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"objective": "chebyshev"}, "which `objective: chebyshev` is not"),
        ({"keep": "99%"}, "what `keep` asks of one, two needs all"),
        ({"racing": "safe"}, "Remove `racing`"),
        ({"optimizer": {"kind": "hyperband", "least": 400}}, "Rungs need at least 1200 examples"),
        ({"tasks": {**TASKS, "size": {"evaluator": "model_size"}}}, "size gives one value per model"),
        ({"objective": "pareto"}, "hyperband"),
    ],
)
def test_check_refuses_what_candidates_cannot_be_compared_by(tmp_path: Path, changes: dict[str, Any], why: str) -> None:
    done = CliRunner().invoke(app, ["check", str(write(tmp_path, **changes))])
    assert done.exit_code == 2, done.output
    assert why in " ".join(done.output.split()), done.output
