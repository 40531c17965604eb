import numpy as np
import pytest

from evaluators.base import Scores
from evomerge.commands.plan import signal_lines
from evomerge.objective import Objective
from evomerge.results.signal import Signal, signals, signals_to_list, weak

IDS = tuple(f"{n:016x}" for n in range(100))


def scored(mean: float, spread: float, metric: float | None = None) -> Scores:
    """Half of 100 examples lie `spread` above the mean, half below; by the metric a share has 1."""
    sides = np.where(np.arange(100) % 2, 1.0, -1.0)
    by_metric = None if metric is None else (np.arange(100) < 100 * metric).astype(float)
    return Scores(IDS, mean + spread * sides, metric=by_metric)


def test_signal_is_the_largest_difference_and_noise_the_standard_error() -> None:
    objective = Objective({"text": 1.0}, lower_is_better=frozenset({"text"}))
    models = [{"text": scored(mean, 0.5)} for mean in (2.0, 2.3, 2.6)]
    found = signals(objective, models)["text"]
    error = 0.5 / np.sqrt(99)
    assert (found.spread, found.noise) == (pytest.approx(0.6), pytest.approx(error, rel=1e-6))
    assert found.ratio == pytest.approx(0.6 / error, rel=1e-6)
    assert found.relative(found.spread) == pytest.approx(0.6 / 2.3)
    (row,) = signals_to_list(objective, models)
    assert row["ratio"] == pytest.approx(found.ratio)
    assert row["metric_ratio"] is None
    assert weak([row]) == []
    assert signal_lines([row])[1].startswith("  text: 12 (0.6 over 0.05, 3 models)")


def test_a_task_that_does_not_tell_models_apart_is_warned_about() -> None:
    objective = Objective({"flat": 1.0, "size": 1.0}, whole_model=frozenset({"size"}))
    size = Scores(("one",), [3.0])  # type: ignore[arg-type] # lists are converted
    models = [{"flat": scored(mean, 1.0), "size": size} for mean in (0.50, 0.55)]
    rows = signals_to_list(objective, models)
    assert [row["task"] for row in rows] == ["flat"]
    assert rows[0]["ratio"] == pytest.approx(0.05 / 0.1005, rel=1e-3)
    (warning,) = weak(rows)
    assert warning.startswith(
        "task 'flat': the largest difference between parents and baselines, 0.05, is smaller than"
    )


def test_a_smooth_score_is_shown_beside_its_metric() -> None:
    objective = Objective({"mine": 1.0}, lower_is_better=frozenset({"mine"}), smooth={"mine": "bits_per_byte"})
    models = [{"mine": scored(1.0, 0.1, metric=0.50)}, {"mine": scored(0.8, 0.1, metric=0.52)}]
    (row,) = signals_to_list(objective, models)
    assert row["ratio"] > 10
    assert row["metric_ratio"] == pytest.approx(0.02 / 0.05, rel=0.02)
    assert "by its metric" in signal_lines([row])[1]


def test_without_noise_the_ratio_is_infinite_or_0_and_one_model_says_nothing() -> None:
    assert Signal(0.5, 0.0, 1.0, 2).ratio == np.inf
    assert Signal(0.0, 0.0, 0.0, 2).ratio == 0
    assert Signal(0.0, 0.0, 0.0, 2).relative(0.5) is None
    assert signals(Objective({"text": 1.0}), [{"text": scored(1.0, 0.5)}]) == {}
