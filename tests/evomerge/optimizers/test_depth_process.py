"""The process over many coefficients: its gradients, and what it carries over to coordinates it has not seen move."""

import numpy as np
import pytest
from scipy.optimize import check_grad

from evomerge.optimizers._depth_process import Evidence, fit_depth_process
from evomerge.optimizers._links import Data, read
from evomerge.optimizers.base import FloatArray, Observation, Positions

N_SERIES, N_DEPTHS = 3, 12
POSITIONS = Positions(np.tile(np.arange(N_SERIES), N_DEPTHS), np.repeat(np.linspace(0.0, 1.0, N_DEPTHS), N_SERIES))


def measured(x: FloatArray, losses: FloatArray) -> Data:
    return read([Observation(i, x[i], losses[i : i + 1]) for i in range(len(x))], 0)[0]


def bowl(x: FloatArray) -> FloatArray:
    """Losses that depend on the mean of each series."""
    means = x.reshape(len(x), N_DEPTHS, N_SERIES).mean(axis=1)
    return np.asarray(np.sum((means - [0.2, 0.4, 0.6]) ** 2, axis=1))


def test_the_evidence_has_the_gradient_that_it_says() -> None:
    rng = np.random.default_rng(0)
    x = rng.random((15, N_SERIES * N_DEPTHS))
    evidence = Evidence(measured(x, bowl(x)), POSITIONS)
    for _ in range(3):
        theta = evidence.centre + 0.3 * rng.normal(size=len(evidence.centre))
        assert check_grad(lambda t: evidence.loss(t)[0], lambda t: evidence.loss(t)[1], theta) < 1e-3


def test_means_have_the_gradient_that_they_say() -> None:
    rng = np.random.default_rng(0)
    x = rng.random((15, N_SERIES * N_DEPTHS))
    process = fit_depth_process(measured(x, bowl(x)), POSITIONS)
    at, step = rng.random((4, x.shape[1])), 1e-6
    mean, gradient = process.mean_and_gradient(at)
    assert mean == pytest.approx(process.mean(at))
    for k in (0, 7, 35):
        unit = np.eye(x.shape[1])[k]
        slope = (process.mean(at + step * unit) - process.mean(at - step * unit)) / (2.0 * step)
        assert gradient[:, k] == pytest.approx(slope, abs=1e-5)


def test_tied_points_tell_of_free_ones() -> None:
    """Twenty points with one value per series; the others vary with the depth, and only their means count."""
    rng = np.random.default_rng(1)
    tied = np.tile(rng.random((20, N_SERIES)), N_DEPTHS)
    process = fit_depth_process(measured(tied, bowl(tied)), POSITIONS)
    slopes = rng.uniform(-0.3, 0.3, size=(50, N_SERIES))
    free = np.tile(rng.uniform(0.3, 0.7, (50, N_SERIES)), N_DEPTHS) + slopes[:, POSITIONS.series] * (
        POSITIONS.depths - 0.5
    )
    assert np.corrcoef(process.mean(free), bowl(free))[0, 1] > 0.95


def test_it_learns_that_neighbors_behave_alike() -> None:
    """Only the lower half of the layers counts; half of its coordinates never moved alone."""
    rng = np.random.default_rng(2)
    low = POSITIONS.depths < 0.5
    x = np.full((60, len(low)), 0.5)
    moved = POSITIONS.series == 0
    seen = moved & (np.arange(len(low)) // N_SERIES % 2 == 0)
    x[:, seen] += rng.uniform(-0.4, 0.4, size=(60, seen.sum()))
    losses = x[:, moved & low].sum(axis=1)
    process = fit_depth_process(measured(x, losses), POSITIONS)
    _, gradient = process.mean_and_gradient(np.full((1, len(low)), 0.5))
    unseen = moved & ~seen
    assert gradient[0, unseen & low].mean() > 3.0 * abs(gradient[0, unseen & ~low].mean())
