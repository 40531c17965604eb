"""Every method in every space, and every optimizer under it: whatever the parts, the line is the same."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evaluators import _strict_yaml as strict_yaml
from evomerge.bench import Bench
from evomerge.config import SearchConfig, load_config
from evomerge.launch import launch
from evomerge.launch.plan import prepare
from evomerge.merging.engine import MergeError
from evomerge.merging.method import MergeMethod, MethodError
from evomerge.merging.models.header import CheckpointError
from evomerge.optimizers.base import Optimizer, OptimizerError
from evomerge.plugins import load, names
from evomerge.study import Study
from evomerge.trial import Trial
from search_spaces.base import SpaceError
from tests.toys import search_file, write_statistics

#: Facts about the models without which a method has nothing to search: parameter -> a value per model.
#: And numbers so large that the toys' tasks, bowls around 0 to 1, score nothing.
FACTS = {"metrics_weighted": {"metric": [0.5, 0.7]}, "mats": {"iterations": [30]}}


METHODS, SPACES = names("merge method"), names("search space")


def configured(folder: Path, **changes: object) -> SearchConfig:
    file = folder / "search.yaml"
    file.write_text(strict_yaml.dump(search_file(folder, **{"budget": {"trials": 16}, **changes})))
    return load_config(file)


def finish(folder: Path, **changes: object) -> Study:
    """Run a whole study; all of its trials have scores."""
    config = configured(folder, **changes)
    ending, selection = launch.run(config, prepare(config), resume=False)
    assert ending.kind == "done", ending.message
    assert selection is not None
    study = Study.read(Path(config.study))
    assert all(entry.outcome is not None and entry.outcome.failure is None for entry in study.told)
    return study


def scored(folder: Path, **changes: object) -> set[tuple[float, ...]]:
    """Means of random candidates; they and the baselines have scores."""
    config = configured(folder, **changes)
    plan = prepare(config)
    bench = Bench(plan.spec)
    rng = np.random.default_rng(0)
    candidates = [Trial(1000 + n, rng.random(plan.space.dimension), seed=config.seed) for n in range(3)]
    outcomes = [bench.run(trial) for trial in (*plan.planned, *candidates)]
    assert [outcome.failure for outcome in outcomes] == [None] * len(outcomes)
    return {tuple(scores.mean for scores in outcome.scores.values()) for outcome in outcomes[-3:]}


def combinations() -> list[Any]:
    """All pairs of a method and a space; in the quick suite every method in a third of the spaces."""
    return [
        pytest.param(method, space, marks=[] if turn(method, space) % 3 == 0 else [pytest.mark.slow])
        for method in METHODS
        for space in SPACES
    ]


def turn(method: str, space: str) -> int:
    """A number for a pair: each method has each number once, and so has each space as often as the others."""
    return (METHODS.index(method) + SPACES.index(space)) % len(SPACES)


@pytest.mark.parametrize(("method", "space"), combinations())
def test_every_method_in_every_space(tmp_path: Path, method: str, space: str) -> None:
    """Its baselines and candidates; every method in one of the spaces, and every space, is searched to the end."""
    declared = load("merge method", method, MergeMethod)
    facts = {"freeze": {"*": FACTS[method]}} if method in FACTS else {}
    changes: dict[str, object] = {"method": method, "space": {"kind": space, **facts}}
    if declared.max_inputs == 1:
        settings = search_file(tmp_path)
        experts = settings["experts"]
        assert isinstance(experts, dict)
        changes["experts"] = {"a": experts["a"]}
    if declared.needs:
        experts = search_file(tmp_path)["experts"]
        assert isinstance(experts, dict)
        files = write_statistics(tmp_path, experts)
        changes["experts"] = {name: {"path": path, "statistics": str(files[name])} for name, path in experts.items()}
    weights = [p for p in declared.parameters if p.name == "weight" and p.per_input]
    if space == "dataflow":  # searched over networks in `test_dataflow_search.py`; the toys are bare tensors
        with pytest.raises((CheckpointError, MethodError)):
            prepare(configured(tmp_path, **changes))
    elif space in ("simplex", "span") and not weights:
        with pytest.raises(SpaceError, match="with one value per input"):
            prepare(configured(tmp_path, **changes))
    elif space == "span" and weights[0].low >= 0:
        with pytest.raises(SpaceError, match="span takes weights below 0"):
            prepare(configured(tmp_path, **changes))
    elif turn(method, space):
        assert len(scored(tmp_path, **changes)) > 1
    else:
        study = finish(tmp_path, **changes)
        assert len({entry.losses for entry in study.told if entry.trial.label == "search"}) > 1


@pytest.mark.parametrize("optimizer", names("optimizer"))
def test_every_optimizer_of_several_objectives_takes_them(tmp_path: Path, optimizer: str) -> None:
    if load("optimizer", optimizer, Optimizer).max_objectives == 1:
        with pytest.raises(ValueError, match="objective"):
            finish(tmp_path, optimizer=optimizer, objective="pareto", space="uniform")
        return
    if optimizer == "gradient_front":
        with pytest.raises(OptimizerError, match="No task with a weight has a differentiable loss"):
            finish(tmp_path, optimizer=optimizer, objective="pareto", space="uniform")
        return
    space = {"kind": "uniform", "ranges": {"weight": [0, 1]}}  # so that an end is a model, as some need it
    study = finish(tmp_path, optimizer=optimizer, objective="pareto", space=space)
    scored = [entry for entry in study.told if entry.trial.split == "search" and entry.trial.label != "canary"]
    assert all(len(entry.losses or ()) == 2 for entry in scored)


def test_a_search_without_the_statistics_that_its_method_needs_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(MergeError, match="regmean needs the statistics 'gram' of every input, and 'a' has none"):
        finish(tmp_path, method="regmean")


def test_blocks_of_several_models_need_the_space_for_paths(tmp_path: Path) -> None:
    with pytest.raises(MethodError, match=r"merges exactly 1 model.*; got 2\. For a path .*, write `space: dataflow`"):
        prepare(configured(tmp_path, method="passthrough"))
