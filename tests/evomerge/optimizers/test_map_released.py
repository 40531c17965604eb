"""`map_released` keeps the optimizers' contract and does what the released code does."""

import importlib.util
from typing import Any

import numpy as np
import pytest
from scipy.optimize import curve_fit

from evomerge.optimizers.base import FloatArray, Observation, OptimizerError
from evomerge.optimizers.map_released import MapReleased
from tests.contracts.optimizer import OptimizerContract, quadratic


class TestMapReleased(OptimizerContract):
    plugin = MapReleased
    shapes = ((2, 2), (3, 3))
    n_trials = 18


def run(optimizer: MapReleased, n_trials: int, accuracies: bool = False) -> list[FloatArray]:
    """A whole run, or its first trials; losses without noise."""
    asked = []
    while len(asked) < n_trials and optimizer.wants({}):
        asked.append(optimizer.ask(len(asked)).x)
        losses = quadratic(asked[-1], optimizer.n_objectives)
        optimizer.tell(Observation(len(asked) - 1, asked[-1], losses - 1.0 if accuracies else losses))
    return asked


@pytest.mark.parametrize(("dimension", "n_points", "n_levels"), [(2, 12, 5), (3, 20, 4), (4, 30, 3), (8, 90, 2)])
def test_the_design_is_the_one_hots_and_a_part_of_the_grid(dimension: int, n_points: int, n_levels: int) -> None:
    design = np.array(run(MapReleased(dimension, 2, 0), n_points))
    assert design[:dimension].tolist() == np.eye(dimension).tolist()
    grid = design[dimension:]
    assert set((grid * (n_levels - 1)).round(9).ravel()) <= set(map(float, range(n_levels)))
    assert len(np.unique(design, axis=0)) == n_points
    assert not np.isclose(grid.sum(axis=1), 1.0).any()
    assert (np.ptp(grid, axis=1) > 0).all()
    assert run(MapReleased(dimension, 2, 1), n_points)[-1].tolist() != design[-1].tolist()


@pytest.mark.parametrize("accuracies", [True, False])
def test_what_it_promises_is_a_curve_fit_of_a_warped_quadratic_from_all_ones(accuracies: bool) -> None:
    """The same surrogate by the function that the released code calls, at points that need no clipping."""
    optimizer = MapReleased(2, 2, 0)
    design = np.array(run(optimizer, 12, accuracies))

    def model(x: FloatArray, *w: float) -> Any:
        z = w[0] * x[0] ** 2 + w[1] * x[1] ** 2 + w[2] * x[0] * x[1] + w[3] * x[0] + w[4] * x[1] + w[5]
        return 1.0 / (1.0 + np.exp(-z)) if accuracies else np.log1p(np.exp(z))

    sign = -1.0 if accuracies else 1.0
    metrics = np.array([sign * (quadratic(x, 2) - accuracies) for x in design])
    weights = [curve_fit(model, design.T, column, p0=np.ones(6), maxfev=10000)[0] for column in metrics.T]
    inside = [p for p in optimizer.predictions() if p.x.min() > 0.0 and p.x.max() < 1.0]
    assert len(inside) > 3
    for prediction in inside:
        expected = [sign * float(model(prediction.x, *w)) for w in weights]
        np.testing.assert_allclose(prediction.losses, expected, atol=2e-4)


def test_after_the_design_come_the_recommended_point_and_the_rest_of_the_front_and_then_nothing() -> None:
    optimizer = MapReleased(2, 2, 0)
    assert optimizer.predictions() == ()
    assert "its design of 12 points is measured; 0 are" in optimizer.why_no_predictions()
    run(optimizer, 12)
    promised = optimizer.predictions()
    for preference in ([9.0, 1.0], [1.0, 9.0]):
        optimizer.prefer(preference)
        best = min(promised, key=lambda p: float(p.losses @ preference))
        assert optimizer.ask(12).x.tolist() == best.x.tolist()
        recommended = optimizer.recommend()
        assert recommended is not None
        assert recommended.tolist() == best.x.tolist()
    points = {p.x.tobytes() for p in promised}
    second = optimizer.ask(13, {12: optimizer.ask(12).x}).x
    assert second.tobytes() in points
    optimizer.tell(Observation(12, optimizer.ask(12).x, np.ones(2)))
    assert optimizer.recommend() is None
    for number, x in enumerate(map(np.frombuffer, sorted(points - {x.tobytes() for x in [best.x]})), start=13):
        assert optimizer.wants({})
        optimizer.tell(Observation(number, x, np.ones(2)))
    assert not optimizer.wants({})


def test_it_waits_for_the_design_and_replaces_what_failed() -> None:
    optimizer = MapReleased(2, 2, 0)
    run(optimizer, 11)
    last = optimizer.ask(11).x
    assert not optimizer.wants({11: last})
    optimizer.tell(Observation(11, last, None))
    replacement = optimizer.ask(12).x
    assert replacement.tolist() != last.tolist()
    assert not optimizer.wants({12: replacement})
    assert optimizer.predictions() == ()
    optimizer.tell(Observation(12, replacement, quadratic(replacement, 2)))
    assert optimizer.predictions()


def test_parents_that_were_told_are_not_evaluated_again() -> None:
    optimizer = MapReleased(3, 2, 0)
    for number, x in enumerate(np.eye(3)):
        optimizer.tell(Observation(number, x, quadratic(x, 2), proposed=False))
    assert not np.isin(optimizer.ask(3).x, (0.0, 1.0)).all()


def test_what_it_cannot_take_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for dimension in (1, 17):
        with pytest.raises(OptimizerError, match=f"2 to 16 coefficients.* there are {dimension}"):
            MapReleased(dimension, 2, 0)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(OptimizerError, match=r"evomerge\[pymoo\]"):
        MapReleased(2, 2, 0)
