"""Draws from a process: distributed as its posterior, with the gradient that they say, and lower after a descent."""

import numpy as np
import pytest

from evomerge.optimizers._kernel import Kernel
from evomerge.optimizers._process import Process
from evomerge.optimizers._process_draws import Draws, Features


def process() -> Process:
    rng = np.random.default_rng(0)
    x = rng.random((12, 2))
    kernel = Kernel(2.0, 0.0, 0.0, 0.5, np.array([0.3, 0.8]))
    return Process.given(kernel, x, np.sin(5.0 * x[:, 0]), np.full(12, 0.01))


def drawn(n_draws: int, spread: float = 1.0) -> Draws:
    features = Features.of(process(), np.random.default_rng(1))
    return Draws.of(process(), features, [np.random.default_rng(k) for k in range(n_draws)], spread)


def differences(draws: Draws, points: np.ndarray) -> np.ndarray:
    """Values relative to the first point, (n_draws, n_points - 1): draws are known up to a constant."""
    values = draws.values(points)
    return values[:, 1:] - values[:, :1]


@pytest.mark.parametrize("spread", [1.0, 0.3])
def test_draws_have_the_mean_and_the_spread_of_the_posterior(spread: float) -> None:
    points = np.random.default_rng(2).random((30, 2))
    found, given = differences(drawn(4000, spread), points), process()
    mean = given.mean(points)
    assert np.abs(found.mean(axis=0) - (mean[1:] - mean[0])).max() < 0.05
    known = given.kernel(points, points) - given.kernel(points, given.x) @ np.linalg.solve(
        given.kernel(given.x, given.x) + np.diag(given.noise), given.kernel(given.x, points)
    )
    expected = spread * np.sqrt(np.diag(known)[1:] + known[0, 0] - 2.0 * known[0, 1:])
    # 128 features are a rough prior: some of its variance is missing or too much.
    assert np.abs(found.std(axis=0) / expected - 1.0).mean() < 0.15


def test_gradients_are_those_of_the_values() -> None:
    draws, points, step = drawn(5), np.random.default_rng(3).random((5, 2)), 1e-6
    _, gradients = draws.values_and_gradients(points)
    for k, unit in enumerate(np.eye(2)):
        ends = [draws.values_and_gradients(points + side * step * unit)[0] for side in (1.0, -1.0)]
        assert gradients[:, k] == pytest.approx((ends[0] - ends[1]) / (2.0 * step), abs=1e-4)
    own = [draws.values(np.vstack([points, points[:1]]))[k] for k in range(5)]
    ahead = draws.values_and_gradients(points)[0] - draws.values_and_gradients(np.repeat(points[:1], 5, axis=0))[0]
    assert ahead == pytest.approx([own[k][k] - own[k][0] for k in range(5)])


def test_a_descent_ends_lower_and_in_the_cube() -> None:
    draws, points = drawn(20), np.random.default_rng(4).random((20, 2))
    found = draws.descended(points)
    before, after = draws.values_and_gradients(points)[0], draws.values_and_gradients(found)[0]
    assert (after <= before).all()
    assert np.median(after) < np.median(before) - 0.2
    assert found.min() >= 0.0
    assert found.max() <= 1.0
