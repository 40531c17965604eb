"""The plan's numbers, against their formulas and against a study's own trials."""

import json
import re
from collections import Counter
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evaluators import _strict_yaml as strict_yaml
from evomerge.commands import plan
from evomerge.commands.power import DISAGREEMENT
from evomerge.config import SearchConfig, load_config
from evomerge.launch import launch
from evomerge.launch.plan import prepare
from evomerge.study import Study
from evomerge.trial import Trial
from tests.toys import search_file


def config(folder: Path, **changes: object) -> SearchConfig:
    file = folder / "search.yaml"
    file.write_text(strict_yaml.dump(search_file(folder, **changes)), encoding="utf-8")
    return load_config(file)


def plan_search(search: SearchConfig, *, measure: bool) -> tuple[dict[str, Any], list[str]]:
    return plan.plan_search(search, Path("search.yaml"), measure=measure)


def test_power_before_any_trial_assumes_discordant_answers(tmp_path: Path) -> None:
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


def test_model_size_has_no_sampling_error(tmp_path: Path) -> None:
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
            assert any("one value per model" in line for line in lines)


def entropy(model: Any, ids: tuple[str, ...]) -> list[float]:
    """An example by example objective in a unit of its own, of which less is better."""
    level = float(model.tensors["model.norm.weight"].abs().sum())
    return [100 * level + 10 * level * n**2 for n, _ in enumerate(ids)]


UNITS: dict[str, object] = {
    "right": {"evaluator": "synthetic", "task": 0, "n_examples": 200, "noise": "binomial"},
    "entropy": {
        "evaluator": "callable",
        "function": f"{__name__}:entropy",
        "examples": [f"example {n}" for n in range(100)],
        "higher_is_better": False,
    },
    "size": "model_size",
}


@pytest.mark.parametrize("measure", [False, True])
def test_power_of_tasks_in_several_units_is_per_task(tmp_path: Path, measure: bool) -> None:
    search = config(tmp_path, tasks=UNITS, objective="pareto", optimizer="nsga2")
    data, lines = plan_search(search, measure=measure)
    json.dumps(data, allow_nan=False)
    shown = data["power"]
    assert shown["whole_model"] == ["size"]
    assert shown["detectable"]["score"] is None
    assert shown["examples_needed"] == {}
    text = "\n".join(lines)
    assert "  size: one value per model" in text
    assert "examples needed in all" not in text
    if measure:
        bench = prepare(search).spec()
        start, parent = (bench.run(trial).scores["entropy"].values for trial in _measured(search))
        spread = float(np.var(start - parent, ddof=1))
        expected = 2.8015852 * sqrt(spread / shown["examples"]["entropy"])
        assert shown["detectable"]["entropy"] == pytest.approx(expected, rel=0.2)
    else:
        assert shown["detectable"]["entropy"] is None
        assert shown["detectable"]["right"] == pytest.approx(2.8015852 * sqrt(0.2 / shown["examples"]["right"]))
        assert "  entropy: unknown until models have been scored; --measure scores some" in text


def test_a_weighted_mean_of_several_units_has_a_score_as_soon_as_models_are_scored(tmp_path: Path) -> None:
    search = config(tmp_path, tasks=UNITS, objective={"right": 1, "entropy": 3, "size": 4}, optimizer="random")
    assert plan_search(search, measure=False)[0]["power"]["detectable"]["score"] is None
    shown = plan_search(search, measure=True)[0]["power"]["detectable"]
    assert shown["score"] == pytest.approx(sqrt((shown["right"] / 8) ** 2 + (3 * shown["entropy"] / 8) ** 2))


def _measured(search: SearchConfig) -> list[Trial]:
    planned = prepare(search).planned
    return [next(trial for trial in planned if trial.label == label) for label in ("start", "parent:a")]


def test_measure_scores_two_models_for_time_and_variance(tmp_path: Path) -> None:
    slow = {"evaluator": "synthetic", "task": 0, "n_examples": 200, "delay": 0.05, "noise": "binomial"}
    data, _ = plan_search(config(tmp_path, tasks={"slow": slow}, budget={"trials": 40}), measure=True)
    assert data["time"]["candidate_seconds"] >= 0.05
    assert data["time"]["search_seconds"] == pytest.approx(40 * data["time"]["candidate_seconds"])
    assert data["power"]["variance"]["slow"] != DISAGREEMENT
    assert not (tmp_path / "study").exists()


def test_workers_are_measured_at_once(tmp_path: Path) -> None:
    slow = {"evaluator": "synthetic", "task": 0, "n_examples": 200, "delay": 0.05}
    changes: dict[str, object] = {"tasks": {"slow": slow}, "budget": {"trials": 40}, "executor": "ray", "workers": 3}
    data, lines = plan_search(config(tmp_path, **changes), measure=True)
    spent = data["time"]
    assert spent["source"].endswith("scored now by 3 workers")
    assert spent["search_seconds"] == pytest.approx(40 / 3 * spent["candidate_seconds"])
    assert spent["start_seconds"] > 1, "Ray takes longer to start"
    assert any("; start about " in line for line in lines)


def test_estimates_come_from_the_trials_of_a_begun_study(tmp_path: Path) -> None:
    noisy = {"evaluator": "synthetic", "task": 1, "n_examples": 300, "noise": "binomial"}
    search = config(tmp_path, tasks={"noisy": noisy}, budget={"trials": 12})
    launch.run(search, prepare(search), resume=False)
    data, _ = plan_search(search, measure=False)
    told = [e for e in Study.read(search.study).told if e.trial.split == "search" and e.outcome is not None]
    scored = [e for e in told if e.outcome is not None and e.outcome.seconds and e.trial.label != "canary"]
    seconds = [sum(e.outcome.seconds.values()) for e in scored if e.outcome is not None]
    assert data["time"]["candidate_seconds"] == pytest.approx(np.mean(seconds))
    values = _values(scored)
    spreads = [np.var(a - b, ddof=1) for i, a in enumerate(values) for b in values[i + 1 :]]
    # The interval counts half a win and half a loss more than were seen.
    assert data["power"]["variance"]["noisy"] == pytest.approx(np.mean(spreads), abs=0.02)
    assert data["time"]["search_seconds"] == data["time"]["selection_seconds"] == 0
    by_split = Counter(e.trial.split for e in Study.read(search.study).told)
    assert by_split["select"] <= data["time"]["selection_models"]["select"]
    assert by_split["report"] <= data["time"]["selection_models"]["report"]
    more, lines = plan_search(config(tmp_path, tasks={"noisy": noisy}, budget={"trials": 20}), measure=False)
    assert more["time"]["search_seconds"] == pytest.approx(8 * more["time"]["candidate_seconds"])
    assert lines[-1] == "Ready: evomerge search search.yaml --resume continues (12 of 20 trials completed so far)"


def _values(told: list[Any]) -> list[Any]:
    wanted = ("base", "start", "uniform")
    found = {e.trial.label: e.outcome.scores["noisy"].values for e in told}
    return [values for label, values in found.items() if label in wanted or label.startswith("parent:")]


def test_signal_to_noise_of_the_tasks_comes_from_parents_and_baselines(tmp_path: Path) -> None:
    tasks = {
        "one": {"evaluator": "synthetic", "task": 0, "n_examples": 200},
        "two": {"evaluator": "synthetic", "task": 1, "n_examples": 200},
    }
    search = config(tmp_path, tasks=tasks, optimizer="random", budget={"trials": 12})
    assert plan_search(search, measure=False)[0]["signal"] == []
    launch.run(search, prepare(search), resume=False)
    data, lines = plan_search(search, measure=False)
    study = Study.read(search.study)
    scores = [
        e.outcome.scores for e in study.told if e.outcome and e.trial.merge is not None and e.trial.split == "search"
    ]
    for row in data["signal"]:
        means = [each[row["task"]].mean for each in scores]
        assert row["models"] == len(means)
        assert row["spread"] == pytest.approx(max(means) - min(means))
    assert len(data["signal"]) == 2
    assert any(line.startswith("signal to noise") for line in lines)
