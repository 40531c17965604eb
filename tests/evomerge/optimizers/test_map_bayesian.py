"""`map_bayesian` keeps the optimizers' contract and samples where its surrogates are wrong."""

import numpy as np
import pytest

from evomerge.optimizers.base import FloatArray, Observation, OptimizerError
from evomerge.optimizers.map_bayesian import MapBayesian, _angles, _direction
from tests.contracts.optimizer import OptimizerContract
from tests.evomerge.optimizers.landscapes import measure, observe, tasks


class TestMapBayesian(OptimizerContract):
    plugin = MapBayesian
    options = {"initial": 4}  # noqa: RUF012 - read only
    shapes = ((1, 1), (2, 2), (6, 3))
    n_trials = 8
    fingerprint_dimension = 6


@pytest.mark.parametrize("dimension", [1, 2, 4, 6])
def test_angles_are_those_of_the_direction(dimension: int) -> None:
    angles = np.random.default_rng(0).uniform(0.1, 1.4, dimension - 1)
    direction = _direction(angles)
    assert np.linalg.norm(direction) == pytest.approx(1.0)
    assert _angles(0.3 * direction) == pytest.approx(angles)


def test_the_design_fills_every_bin() -> None:
    optimizer = MapBayesian(3, 1, 0, initial=16)
    pending: dict[int, FloatArray] = {}
    for number in range(16):
        pending[number] = optimizer.ask(number, dict(pending)).x
    assert {optimizer._bin(x) for x in pending.values()} == set(range(16))
    assert all(0.2 <= np.linalg.norm(x) <= 0.8 for x in pending.values())


def test_it_samples_more_where_surrogates_are_wrong() -> None:
    """A loss that is rough in directions near the second axis, and flat elsewhere."""
    optimizer = MapBayesian(2, 1, 0, initial=24)
    rng = np.random.default_rng(0)
    for number in range(24):
        x = _direction(np.array([rng.uniform(0.0, np.pi / 2)])) * rng.uniform(0.2, 0.8)
        rough = float(rng.choice([-1.0, 1.0])) if optimizer._bin(x) == 3 else 0.0
        optimizer.tell(Observation(number, x, np.array([rough])))
    bins = [optimizer._bin(optimizer.ask(number).x) for number in range(100, 140)]
    assert bins.count(3) > 20


def test_it_predicts_a_front() -> None:
    of = tasks(2, 2)
    optimizer = MapBayesian(2, 2, 0)
    for n in range(20):
        optimizer.tell(observe(of, optimizer.ask(n).x, n))
    predicted = optimizer.predictions()
    assert len(predicted) > 10
    real = measure(of, np.array([point.x for point in predicted]))
    assert np.abs(np.array([point.losses for point in predicted]) - real).mean() < 0.04


def test_options_are_checked() -> None:
    with pytest.raises(OptimizerError, match="up to 6"):
        MapBayesian(7, 2, 0)
    with pytest.raises(OptimizerError, match="'cubic'"):
        MapBayesian(2, 2, 0, surrogate="cubic")  # type: ignore[arg-type]
    with pytest.raises(OptimizerError, match="at least 3"):
        MapBayesian(2, 2, 0, initial=2)
