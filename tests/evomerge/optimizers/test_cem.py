"""`cem` keeps the optimizers' contract; a generation moves and narrows its distribution as the formulas say."""

import numpy as np
import pytest

from evomerge.optimizers.base import Observation, OptimizerError
from evomerge.optimizers.cem import CrossEntropy
from tests.contracts.optimizer import OptimizerContract


class TestCrossEntropy(OptimizerContract):
    plugin = CrossEntropy
    learns = True


def told(optimizer: CrossEntropy, xs: np.ndarray, losses: np.ndarray, first: int = 0) -> None:
    for number, (x, loss) in enumerate(zip(xs, losses, strict=True), first):
        optimizer.tell(Observation(number, x, None if np.isnan(loss) else np.array([loss])))


def test_the_distribution_is_refitted_to_the_best_of_a_generation() -> None:
    optimizer = CrossEntropy(2, 1, 0, sigma=0.1, popsize=10, elite=0.3, floor=0.03)
    xs = np.array([optimizer.ask(number).x for number in range(10)])
    assert optimizer.recommend() is None
    losses = np.array([9, 3, 8, 1, 7, 6, 2, 5, 4, np.nan])
    told(optimizer, xs, losses)
    elite = xs[[3, 6, 1]]
    np.testing.assert_allclose(optimizer.recommend(), 0.7 * elite.mean(axis=0) + 0.3 * 0.5)
    draws = np.array([optimizer.ask(number).x for number in range(100, 2100)])
    deviation = np.maximum(0.7 * elite.std(axis=0, ddof=1) + 0.3 * 0.1, 0.03)
    np.testing.assert_allclose(draws.std(axis=0), deviation, rtol=0.06)


def test_deviations_stay_above_the_floor() -> None:
    optimizer = CrossEntropy(3, 1, 0, popsize=4, floor=0.01)
    for generation in range(30):
        numbers = range(4 * generation, 4 * generation + 4)
        xs = np.array([optimizer.ask(number).x for number in numbers])
        told(optimizer, xs, ((xs - 0.4) ** 2).sum(axis=1), 4 * generation)
    draws = np.array([optimizer.ask(number).x for number in range(1000, 2000)])
    assert draws.std(axis=0) == pytest.approx(0.01, rel=0.4)


def test_draws_outside_the_cube_do_not_pile_up_at_its_faces() -> None:
    optimizer = CrossEntropy(2, 1, 0, np.array([0.0, 0.5]))
    draws = np.array([optimizer.ask(number).x for number in range(500)])
    assert np.mean(draws[:, 0] == 0.0) < 0.01
    assert draws[:, 0].mean() > 0.05


@pytest.mark.parametrize("options", [{"elite": 0.0}, {"elite": 0.6}, {"floor": 0.0}, {"popsize": 3}, {"sigma": 0.0}])
def test_options_out_of_range_are_refused(options: dict) -> None:
    with pytest.raises(OptimizerError, match=next(iter(options))):
        CrossEntropy(3, 1, 0, **options)
