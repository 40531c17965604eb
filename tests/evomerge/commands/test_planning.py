"""The plan's numbers, against their formulas and against a study's own trials."""

import json
import re
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evomerge import launch, strict_yaml
from evomerge.commands.planning import DISAGREEMENT, plan_search
from evomerge.config import SearchConfig, load_config
from evomerge.study import Study
from tests.toys import search_file


def config(folder: Path, **changes: object) -> SearchConfig:
    file = folder / "search.yaml"
    file.write_text(strict_yaml.dump(search_file(folder, **changes)), encoding="utf-8")
    return load_config(file)


def test_before_anything_is_scored_the_examples_say_what_they_can_show(tmp_path: Path) -> None:
    data, lines = plan_search(config(tmp_path, executor="serial"), measure=False)
    assert re.search(r"coefficients?, 1 worker with 1 core of \d+ cores?$", lines[0])
    shown = data["power"]
    one, two = (2.8015852 * sqrt(DISAGREEMENT / shown["examples"][task]) for task in ("one", "two"))
    assert shown["detectable"] == pytest.approx({"one": one, "two": two, "score": sqrt(one**2 + two**2) / 2})
    assert shown["examples_needed"]["0.01"] == pytest.approx(
        sum(shown["examples"].values()) * (shown["detectable"]["score"] / 0.01) ** 2, abs=1
    )
    assert data["time"]["search_seconds"] is None
    assert any("--measure" in line for line in lines)
    assert not (tmp_path / "study").exists(), "a plan begins nothing"


def test_the_size_of_a_model_has_no_luck_of_examples(tmp_path: Path) -> None:
    noisy = {"evaluator": "synthetic", "task": 0, "n_examples": 200, "noise": "binomial"}
    for folder, tasks in (
        (tmp_path / "a", {"noisy": noisy, "size": "model_size"}),
        (tmp_path / "b", {"size": "model_size"}),
    ):
        folder.mkdir()
        data, lines = plan_search(config(folder, tasks=tasks, optimizer="random"), measure=True)
        json.dumps(data, allow_nan=False)
        shown = data["power"]
        if "noisy" in tasks:
            assert shown["variance"].keys() == shown["examples"].keys() == {"noisy"}
            assert shown["detectable"]["score"] == pytest.approx(shown["detectable"]["noisy"] / 2)
        else:
            assert shown["detectable"] == {"score": None}
            assert any("whole models" in line for line in lines)


def test_measuring_scores_two_models_and_knows_time_and_variance(tmp_path: Path) -> None:
    slow = {"evaluator": "synthetic", "task": 0, "n_examples": 200, "delay": 0.05, "noise": "binomial"}
    data, _ = plan_search(config(tmp_path, tasks={"slow": slow}, budget={"trials": 40}), measure=True)
    assert data["time"]["candidate_seconds"] >= 0.05
    assert data["time"]["search_seconds"] == pytest.approx(40 * data["time"]["candidate_seconds"])
    assert data["power"]["variance"]["slow"] != DISAGREEMENT
    assert not (tmp_path / "study").exists()


def test_a_study_that_has_begun_knows_better_than_a_guess(tmp_path: Path) -> None:
    noisy = {"evaluator": "synthetic", "task": 1, "n_examples": 300, "noise": "binomial"}
    search = config(tmp_path, tasks={"noisy": noisy}, budget={"trials": 12})
    launch.run(search, launch.prepare(search), resume=False)
    data, _ = plan_search(search, measure=False)
    told = [e for e in Study.read(search.study).told if e.trial.split == "search" and e.outcome is not None]
    seconds = [sum(e.outcome.seconds.values()) for e in told if e.outcome is not None]
    assert data["time"]["candidate_seconds"] == pytest.approx(np.mean(seconds))
    values = _values(told)
    spreads = [np.var(a - b, ddof=1) for i, a in enumerate(values) for b in values[i + 1 :]]
    # The interval counts half a win and half a loss more than were seen.
    assert data["power"]["variance"]["noisy"] == pytest.approx(np.mean(spreads), abs=0.02)


def _values(told: list[Any]) -> list[Any]:
    wanted = ("base", "start", "uniform")
    found = {e.trial.label: e.outcome.scores["noisy"].values for e in told}
    return [values for label, values in found.items() if label in wanted or label.startswith("parent:")]
