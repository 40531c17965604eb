"""The Gaussian process: gradients against differences, the posterior against its definition."""

import numpy as np
import pytest
from scipy.optimize import check_grad

from evomerge.optimizers._kernel import Kernel, quadratic
from evomerge.optimizers._links import Data, read
from evomerge.optimizers._process import Process, _Evidence, fit_process
from evomerge.optimizers.base import Observation


def bumpy(n_points: int, seed: int = 0) -> Data:
    rng = np.random.default_rng(seed)
    x = rng.random((n_points, 2))
    losses = np.sin(6.0 * x[:, 0]) + 0.01 * rng.normal(size=n_points)
    return read([Observation(i, x[i], losses[i : i + 1]) for i in range(n_points)], 0)[0]


@pytest.mark.parametrize("trend", [None, quadratic(2, 1.0)], ids=["constant", "quadratic"])
def test_the_evidence_has_the_gradient_that_it_says(trend: Kernel | None) -> None:
    evidence = _Evidence(bumpy(15), trend)
    rng = np.random.default_rng(1)
    for _ in range(3):
        theta = evidence.centre + 0.5 * rng.normal(size=len(evidence.centre))
        assert check_grad(lambda t: evidence.loss(t)[0], lambda t: evidence.loss(t)[1], theta) < 1e-3


def test_means_have_the_gradient_that_they_say() -> None:
    data = bumpy(12)
    process = fit_process(data, quadratic(2, 1.0))
    at, step = np.random.default_rng(2).random((5, 2)), 1e-6
    mean, gradient = process.mean_and_gradient(at)
    assert mean == pytest.approx(process.mean(at))
    for k, unit in enumerate(np.eye(2)):
        slope = (process.mean(at + step * unit) - process.mean(at - step * unit)) / (2.0 * step)
        assert gradient[:, k] == pytest.approx(slope, abs=1e-4)


def test_it_learns_which_coordinate_matters() -> None:
    process = fit_process(bumpy(40))
    assert process.kernel.lengths[1] > 2.0 * process.kernel.lengths[0]
    unseen = np.random.default_rng(3).random((200, 2))
    assert np.abs(process.mean(unseen) - np.sin(6.0 * unseen[:, 0])).mean() < 0.05
    assert process.noise.mean() < 0.01  # of a variance of about 0.5


def test_left_out_predictions_equal_refits() -> None:
    data = bumpy(10)
    process = fit_process(data)
    expected, variance = process.left_out()
    for i in range(10):
        rest = np.arange(10) != i
        k = process.kernel(data.x[rest], data.x[rest]) + np.diag(process.noise[rest])
        across = process.kernel(data.x[i : i + 1], data.x[rest])
        mean = process.offset + across @ np.linalg.solve(k, data.latents[rest] - process.offset)
        doubt = process.kernel.diagonal(data.x[i : i + 1]) - across @ np.linalg.solve(k, across.T) + process.noise[i]
        assert expected[i] == pytest.approx(mean[0], abs=1e-8)
        assert variance[i] == pytest.approx(doubt[0, 0], rel=1e-6)


def test_belief_keeps_the_mean_and_takes_doubt_away() -> None:
    process = fit_process(bumpy(10))
    there, elsewhere = np.array([[0.9, 0.1]]), np.random.default_rng(4).random((20, 2))
    believing = process.believing(there)
    assert believing.mean(elsewhere) == pytest.approx(process.mean(elsewhere), abs=1e-8)
    assert believing.deviation(there)[0] < 0.8 * process.deviation(there)[0]
    assert (believing.deviation(elsewhere) <= process.deviation(elsewhere) + 1e-9).all()


def test_repeated_points_are_averaged() -> None:
    x = np.array([[0.2], [0.2], [0.8]])
    kernel = Kernel(0.0, 0.0, 0.0, 1.0, np.array([0.3]))
    process = Process.given(kernel, x, np.array([0.9, 1.1, -1.0]), np.full(3, 1e-6))
    assert process.mean(x[:1])[0] == pytest.approx(1.0, abs=1e-3)
