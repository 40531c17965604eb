"""`carbs` keeps the optimizers' contract, and weighs scores against the seconds that the ledger holds."""

import numpy as np
import pytest

from evomerge.optimizers.base import FloatArray, Observation, OptimizerError
from evomerge.optimizers.carbs import Carbs, Models, _log_improvement
from tests.contracts.optimizer import OptimizerContract


class TestCarbs(OptimizerContract):
    plugin = Carbs
    options = {"n_startup_trials": 4}  # noqa: RUF012 - read only
    shapes = ((1, 1), (7, 1))
    n_trials = 16
    learns = True
    learning_dimension = 3
    budget = 30


def seconds_of(x: FloatArray) -> float:
    """Up to fifty times as long at one end of the cube as at the other."""
    return float(np.exp(4.0 * x[0]))


def told(optimizer: Carbs, n: int) -> list[Observation]:
    """Tell an optimizer of a loss that is least where candidates take long."""
    seen = []
    for number in range(n):
        x = optimizer.ask(number).x
        loss = np.mean((x - [0.8, 0.4, 0.6]) ** 2)
        seen.append(Observation(number, x, np.array([loss]), seconds=seconds_of(x)))
        optimizer.tell(seen[-1])
    return seen


def test_the_front_has_the_best_points_for_their_cost() -> None:
    rng = np.random.default_rng(0)
    results = [
        Observation(n, x, np.array([x[1] - 0.5 * x[0]]), seconds=float(np.exp(x[0])))
        for n, x in enumerate(rng.random((40, 2)))
    ]
    models = Models.fitted(results)
    front = models.front()
    assert len(front.x) > 2
    assert np.all(np.diff(front.costs) > 0.0)
    assert np.all(np.diff(front.losses) < 0.0)
    losses, costs = models.losses(models.x)[0], models.costs(models.x)
    least = np.quantile(costs, 0.2)
    assert front.costs[0] >= least - 1e-12, "the cheapest fifth counts as equally cheap"
    for loss, cost in zip(losses, np.maximum(costs, least), strict=True):
        assert any(front.losses[i] <= loss + 1e-12 and front.costs[i] <= cost + 1e-12 for i in range(len(front.x)))


def test_slow_candidates_are_avoided_where_they_may_not_take_so_long() -> None:
    most = float(np.exp(1.6))
    free = [seconds_of(o.x) for o in told(Carbs(3, 1, 0), 25)[12:]]
    limited = [seconds_of(o.x) for o in told(Carbs(3, 1, 0, most_seconds=most), 25)[12:]]
    assert np.mean(np.array(limited) <= 1.1 * most) > 0.9
    assert np.mean(np.array(free) <= 1.1 * most) < 0.5


def test_proposals_follow_from_the_seconds_that_were_told() -> None:
    seen = told(Carbs(3, 1, 0, n_startup_trials=8), 20)
    proposals = []
    for factor in (1.0, 1.0, np.nan):
        again = Carbs(3, 1, 0, n_startup_trials=8)
        for each in seen:
            seconds = None if np.isnan(factor) else each.seconds
            again.tell(Observation(each.number, each.x, each.losses, seconds=seconds))
        proposals.append(again.ask(20).x.tolist())
    assert proposals[0] == proposals[1] != proposals[2]


def test_equal_times_are_no_cost() -> None:
    results = [Observation(n, x, x[:1], seconds=2.0) for n, x in enumerate(np.random.default_rng(0).random((9, 2)))]
    models = Models.fitted(results)
    assert models.cost is None
    assert len(models.front().x) == 1


def test_the_logarithm_of_the_expected_improvement() -> None:
    draws = 0.3 + 0.2 * np.random.default_rng(0).standard_normal(200_000)
    found = _log_improvement(np.array([0.2]), np.array([0.3]), np.array([0.2]))
    assert np.exp(found[0]) == pytest.approx(np.maximum(0.2 - draws, 0.0).mean(), rel=0.02)
    far = _log_improvement(np.full(3, -50.0), np.array([0.0, 1.0, 2.0]), np.ones(3))
    assert np.all(np.diff(far) < 0.0)


@pytest.mark.parametrize("options", [{"radius": 0.0}, {"radius": 1.5}, {"most_seconds": 0.0}, {"n_startup_trials": 1}])
def test_options_out_of_range_are_refused(options: dict) -> None:
    with pytest.raises(OptimizerError, match=next(iter(options))):
        Carbs(3, 1, 0, **options)
