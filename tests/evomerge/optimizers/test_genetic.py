"""`genetic` keeps the optimizers' contract; children come from the best points so far."""

import numpy as np
import pytest

from evomerge.optimizers.base import Observation, OptimizerError
from evomerge.optimizers.genetic import Genetic
from tests.contracts.optimizer import OptimizerContract


class TestGenetic(OptimizerContract):
    plugin = Genetic
    learns = True


def told(optimizer: Genetic, xs: list[list[float]], losses: list[float | None], *, proposed: bool = True) -> None:
    first = len(optimizer._told)
    for number, (x, loss) in enumerate(zip(xs, losses, strict=True), first):
        optimizer.tell(Observation(number, np.array(x), None if loss is None else np.array([loss]), proposed=proposed))


def children(optimizer: Genetic, count: int = 400) -> np.ndarray:
    return np.array([optimizer.ask(number).x for number in range(1000, 1000 + count)])


def test_children_lie_between_the_baselines_and_take_coordinates_from_either() -> None:
    optimizer = Genetic(2, 1, 0, sigma=1e-6)
    told(optimizer, [[0.2, 0.3], [0.6, 0.7]], [1.0, 2.0], proposed=False)
    found = children(optimizer)
    assert found.min() > 0.2 - 1e-4
    assert found[:, 0].max() < 0.6 + 1e-4
    corners = np.isclose(found, [0.2, 0.7], atol=1e-4).all(axis=1) | np.isclose(found, [0.6, 0.3], atol=1e-4).all(
        axis=1
    )
    assert corners.any(), "a coordinate of each"
    middle = (found[:, 0] > 0.25) & (found[:, 0] < 0.55)
    assert middle.any(), "on the line"
    assert np.allclose(found[middle, 1] - found[middle, 0], 0.1, atol=1e-4)
    # The better of two random ones is the first with probability 3/4.
    same = np.isclose(found, [0.2, 0.3], atol=1e-4).all(axis=1).mean()
    assert same > 3 * np.isclose(found, [0.6, 0.7], atol=1e-4).all(axis=1).mean()


def test_the_worst_is_replaced_and_failures_do_not_count() -> None:
    optimizer = Genetic(1, 1, 0, popsize=2, sigma=1e-6)
    told(optimizer, [[0.1], [0.2], [0.3], [0.4], [0.9]], [3.0, 1.0, 2.0, 4.0, None])
    found = children(optimizer)
    assert found.min() > 0.2 - 1e-4
    assert found.max() < 0.3 + 1e-4


def test_it_begins_around_the_start_and_steps_are_reflected_at_the_faces() -> None:
    optimizer = Genetic(2, 1, 0, np.array([0.0, 0.5]), sigma=0.1)
    found = children(optimizer)
    assert found[:, 1].std() == pytest.approx(0.1, rel=0.15)
    assert (found[:, 0] == 0.0).mean() < 0.01
    assert found[:, 0].mean() == pytest.approx(0.1 * (2 / np.pi) ** 0.5, rel=0.15)


@pytest.mark.parametrize("options", [{"popsize": 1}, {"sigma": 0.0}, {"sigma": 1.5}])
def test_options_out_of_range_are_refused(options: dict) -> None:
    with pytest.raises(OptimizerError, match=next(iter(options))):
        Genetic(3, 1, 0, **options)
