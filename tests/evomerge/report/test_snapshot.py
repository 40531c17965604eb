"""Where a search stands, against numbers worked out by hand."""

import json
import math
from pathlib import Path

import pytest

from evomerge.report.snapshot import Standing, leading, take, weights
from tests.evomerge.report.studies import write_study


def test_a_snapshot_of_a_known_study(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s")
    snapshot = take(study, trials=20, busy=1, slots=2)
    assert (snapshot.told, snapshot.trials, snapshot.busy, snapshot.slots) == (6, 20, 1, 2)
    assert snapshot.failures == {"NonFiniteScore": 1}
    assert snapshot.best is not None
    # 3/4 of the mean of `one` minus 1/4 of the mean of `two`, which counts downwards.
    assert (snapshot.best.number, snapshot.best.score) == (4, pytest.approx(0.75 * 0.75 - 0.25 * 1.0))
    assert snapshot.best.tasks == {"one": 0.75, "two": 1.0}
    # Standard errors of the means: 1/4 of `one`, 1/sqrt(3) of `two`.
    assert snapshot.best.error == pytest.approx(math.hypot(0.75 / 4, 0.25 / math.sqrt(3)))
    assert [s.label for s in snapshot.baselines] == ["parent:a", "parent:b"]
    assert snapshot.stages["merge"] == pytest.approx(0.5 * 6)


def test_the_canary_is_no_candidate(tmp_path: Path) -> None:
    snapshot = take(write_study(tmp_path / "s"))
    assert snapshot.best is not None
    assert snapshot.best.tasks["one"] < 1.0


def test_waiting_is_what_workers_did_not_use(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s")
    assert take(study, slots=2).stages["waiting"] == 0.0
    assert "waiting" not in take(study).stages
    many = take(study, slots=10**9)
    busy = sum(seconds for stage, seconds in many.stages.items() if stage != "waiting")
    assert many.stages["waiting"] == pytest.approx(many.seconds * 1e9 - busy, rel=0.9)


def test_a_snapshot_is_json(tmp_path: Path) -> None:
    data = take(write_study(tmp_path / "s"), left=3.0).as_dict()
    assert json.loads(json.dumps(data, allow_nan=False)) == data


def test_equal_weights_where_the_objective_names_none() -> None:
    assert weights({"tasks": {"a": "x", "b": "x"}, "objective": "mean"}) == {"a": 1.0, "b": 1.0}


def test_the_best_of_every_family_of_baselines() -> None:
    scores = {"parent:a": 0.3, "grid:0.2": 0.5, "parent:b": 0.4, "grid:0.4": 0.2, "uniform": 0.1}
    standings = [Standing(label, n, score, 0.0, {}) for n, (label, score) in enumerate(scores.items())]
    assert [standing.label for standing in leading(standings)] == ["grid:0.2", "parent:b", "uniform"]
