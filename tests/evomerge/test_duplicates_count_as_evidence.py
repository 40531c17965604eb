"""A task file in which every example stands ten times says what the file with each of them once says."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from evaluators import _strict_yaml as strict_yaml
from evaluators.base import SPLITS, Scores, content_ids, split_of
from evomerge.cli import app
from evomerge.execution.serial import SerialExecutor
from evomerge.loop import score_all
from evomerge.objective import Kind, Objective
from evomerge.objective.spec import record_objective
from evomerge.report.status import status
from evomerge.results.as_json import front_to_dict, hypervolume_to_dict, models_to_list, selection_to_dict
from evomerge.results.front import front
from evomerge.results.result import selection
from evomerge.results.sampling_error import sampling_error
from evomerge.results.select import select
from evomerge.run import Run
from evomerge.study import Study
from evomerge.trial import Outcome, Trial
from tests.conftest import TinyModels
from tests.evomerge.results.tables import baseline

MODELS = ("base", "parent:a", "parent:b", "uniform", "task_arithmetic:0.8", "x1", "x2", "x3", "x4")


class Repeating:
    """Models whose every answer depends on the content of an example alone; each example stands `copies` times."""

    def __init__(self, copies: int) -> None:
        contents = [f"question {n}" for n in range(300)]
        self.rows = np.repeat(np.arange(300), copies)
        self.ids = content_ids([contents[row] for row in self.rows])

    def run(self, trial: Trial) -> Outcome:
        name = trial.label.removeprefix("rerun:") if trial.x is None else f"x{round(100 * trial.x[0])}"
        skill, rng = 0.3 + 0.06 * MODELS.index(name), np.random.default_rng(MODELS.index(name))
        kept = [n for n, each in enumerate(self.ids) if split_of(each, (0.5, 0.2, 0.3)) == trial.split]
        scores = {}
        for task, graded in (("right", False), ("graded", True)):
            values = (rng.random(300) < skill) + graded * rng.normal(0, 0.1, 300)
            scores[task] = Scores(tuple(self.ids[n] for n in kept), values[self.rows[kept]])
        return Outcome(trial.number, scores)


def told(folder: Path, kind: Kind, copies: int) -> list[Any]:
    """Everything that commands and page say about a finished study, without the counts of examples."""
    objective = Objective({"right": 1.0, "graded": 1.0}, kind=kind)
    study = Study.create(folder, {"tasks": {"right": "x", "graded": "x"}, "objective": kind}, {})
    record_objective(study, objective)
    executor = SerialExecutor(lambda: Repeating(copies))
    trials = [baseline(name) for name in MODELS if not name.startswith("x")]
    trials += [Trial(-1, np.array([n / 100]), label="search", seed=n) for n in range(1, 5)]
    for trial in trials:
        score_all(study, executor, objective, [trial] if trial.merge else [], phase="search")
    for trial in trials[5:]:
        study.ask(Trial(study.next_number, trial.x))
        outcome = Repeating(copies).run(list(study.entries.values())[-1].trial)
        study.tell(outcome, list(objective.losses(outcome.scores)))
    assert select(study, executor, objective, None).kind == "done"
    result = selection(study, objective)
    fronts = {split: front(study, objective, split) for split in SPLITS}
    shown = [front_to_dict(found) | {"examples": 0, "points": models_to_list(found)} for found in fronts.values()]
    data = selection_to_dict(result)
    assert data["scored_twice"] is not None
    state = {
        key: value for key, value in status(Run.of(study)).items() if key in ("best", "front", "baselines", "selected")
    }
    volumes = [hypervolume_to_dict(found) for found in fronts.values()]
    return [data | {"scored_twice": 0}, shown, volumes, sampling_error(fronts, result.winner.label), state]


def assert_alike(found: Any, expected: Any, where: str = "") -> None:
    """Equal up to rounding."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for key, value in expected.items():
            assert_alike(found[key], value, f"{where}/{key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), where
        for n, value in enumerate(expected):
            assert_alike(found[n], value, f"{where}/{n}")
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-12), where
    else:
        assert found == expected, where


@pytest.mark.parametrize("kind", ["mean", "pareto", "retention"])
def test_ten_copies_are_no_more_evidence_than_one(tmp_path: Path, kind: Kind) -> None:
    assert_alike(told(tmp_path / "ten", kind, 10), told(tmp_path / "once", kind, 1))


@pytest.mark.slow
def test_check_says_how_many_repeat_and_plan_counts_them_once(tmp_path: Path, tiny: TinyModels) -> None:
    shown = {}
    for copies in (1, 10):
        lines = tiny.tasks["count"].read_text().splitlines(keepends=True)[:200]
        (tmp_path / f"{copies}.jsonl").write_text("".join(line for line in lines for _ in range(copies)))
        settings = {
            "base": str(tiny.base),
            "experts": {name: str(folder) for name, folder in tiny.experts.items()},
            "method": "task_arithmetic",
            "space": "uniform",
            "tasks": {"t": {"evaluator": "multiple_choice", "file": str(tmp_path / f"{copies}.jsonl")}},
            "optimizer": "random",
            "budget": {"trials": 20},
            "executor": "serial",
            "study": str(tmp_path / "study"),
        }
        (tmp_path / f"{copies}.yaml").write_text(strict_yaml.dump(settings))
        results = [
            CliRunner().invoke(app, [name, str(tmp_path / f"{copies}.yaml"), "--json"]) for name in ("check", "plan")
        ]
        assert [result.exit_code for result in results] == [0, 0], [result.output for result in results]
        shown[copies] = [json.loads(result.stdout) for result in results]
    (check, plan), (check_once, plan_once) = shown[10], shown[1]
    assert check["distinct_examples"] == check_once["distinct_examples"]
    distinct, total = (sum(check[counts]["t"].values()) for counts in ("distinct_examples", "examples"))
    assert total == 10 * sum(check_once["examples"]["t"].values()) >= 10 * distinct
    assert any(f"{total - distinct} of {total} examples are duplicates" in note for note in check["notes"])
    assert plan["power"] == plan_once["power"]
