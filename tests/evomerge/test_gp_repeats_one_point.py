"""A search whose best candidate lies beyond its ranges: the corner is scored once, and then others are."""

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from evaluators import _strict_yaml as strict_yaml
from evomerge.budget import Budget, candidates
from evomerge.config import load_config
from evomerge.execution.serial import SerialExecutor
from evomerge.launch.plan import build_optimizer, candidate_key, prepare
from evomerge.loop import search
from evomerge.optimizers.base import FloatArray
from evomerge.study import Study
from tests.evomerge.searches import history, run_here
from tests.toys import search_file

#: The best coefficients lie at -3, far below the ranges.
BEYOND = {"evaluator": "synthetic", "low": -3, "high": -2.5, "curvature": 0.3, "n_examples": 40}


def write(folder: Path, optimizer: object, trials: int = 26) -> Path:
    folder.mkdir(exist_ok=True)
    settings = search_file(folder, tasks={"s": BEYOND}, space="uniform", optimizer=optimizer, budget={"trials": trials})
    (folder / "search.yaml").write_text(strict_yaml.dump(settings), encoding="utf-8")
    return folder / "search.yaml"


@pytest.mark.parametrize(
    "optimizer",
    [{"kind": "gp", "n_startup_trials": 8}, {"kind": "nsga2", "population": 4}, {"kind": "cma_es", "sigma": 0.9}],
)
def test_no_coefficients_are_scored_twice(tmp_path: Path, optimizer: object) -> None:
    file = write(tmp_path, optimizer)
    run_here(file)
    space = prepare(load_config(file)).space
    trials = [
        e.trial for e in Study.read(tmp_path / "study").told if e.trial.split == "search" and e.trial.x is not None
    ]
    searched = [candidate_key(space, trial.x) for trial in trials if trial.label == "search"]
    others = {candidate_key(space, trial.x) for trial in trials if trial.label not in ("search", "canary")}
    assert len(searched) >= 12
    assert len(set(searched)) == len(searched)
    assert not others & set(searched)


def test_an_interrupted_search_proposes_what_an_uninterrupted_one_does(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, {"kind": "nsga2", "population": 4}))
    plan = prepare(config)
    executor = SerialExecutor(plan.spec)
    for name, sessions in (("whole", (24,)), ("parts", (15, 18, 24))):
        Study.create(tmp_path / name, {}, {}).close()
        for trials in sessions:
            with closing(Study.open(tmp_path / name)) as study:
                optimizer = build_optimizer(config, plan)
                search(study, optimizer, executor, plan.objective, plan.planned, Budget(trials=trials))
    parts, whole = ([row for row in history(tmp_path / name) if isinstance(row[0], int)] for name in ("parts", "whole"))
    assert parts == whole


def test_a_search_ends_where_no_other_candidate_is_found(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, "random", trials=60))
    plan = prepare(config)
    optimizer = build_optimizer(config, plan)

    def two_per_coordinate(x: FloatArray) -> bytes:
        return np.round(x).tobytes()

    optimizer.identify(two_per_coordinate)
    study, executor = Study.create(tmp_path / "s", {}, {}), SerialExecutor(plan.spec)
    ending = search(study, optimizer, executor, plan.objective, plan.planned[:2], Budget(trials=60))
    assert ending.kind == "done"
    assert candidates(study) == 2**plan.space.dimension
