"""The ridge-regularised quadratic: known coefficients, leave-one-out by brute force."""

import numpy as np
import pytest
from scipy.special import expit

from evomerge.optimizers._links import Data, Rate, read
from evomerge.optimizers._process import Process
from evomerge.optimizers._quadratic import fit_quadratic
from evomerge.optimizers.base import FloatArray, Observation
from tests.evomerge.optimizers.landscapes import measure, observe, tasks


def latent(x: FloatArray) -> FloatArray:
    return 0.5 + 2.0 * x[:, 0] - 3.0 * x[:, 1] - 4.0 * x[:, 0] ** 2 + 2.0 * x[:, 0] * x[:, 1]


def rate_data(n_points: int, n_examples: int) -> Data:
    """Exact shares, as of so many examples."""
    x = np.random.default_rng(0).random((n_points, 2))
    told = []
    for number, share in enumerate(expit(latent(x))):
        examples = np.zeros(n_examples)
        examples[: round(share * n_examples)] = -1.0
        told.append(Observation(number, x[number], np.array([examples.mean()]), True, (examples,)))
    (data,) = read(told, 0)
    return data


def test_a_binomial_quadratic_recovers_its_latent() -> None:
    data = rate_data(30, 20000)
    assert isinstance(data.link, Rate)
    process, _ = fit_quadratic(data)
    unseen = np.random.default_rng(1).random((200, 2))
    assert np.abs(process.mean(unseen) - latent(unseen)).max() < 0.03


def test_it_maximises_the_penalised_binomial_likelihood() -> None:
    """There, each point's weight in the kernel expansion is the likelihood's slope: n (observed - fitted share)."""
    of = tasks(2, 1, seed=3)
    (data,) = read([observe(of, point) for point in np.random.default_rng(5).random((20, 2))], 0)
    process, _ = fit_quadratic(data)
    assert process.weights == pytest.approx(data.counts * (expit(process.mean(data.x)) + data.losses) * -1.0, abs=1e-2)


@pytest.mark.parametrize("dimension", [2, 4, 8])
def test_a_quadratic_predicts_unseen_accuracies_from_noisy_ones(dimension: int) -> None:
    """With twice as many points as coefficients, R2 is far above that of the mean."""
    of = tasks(dimension, 1, seed=dimension)
    x = np.random.default_rng(2).random(((dimension + 1) * (dimension + 2), dimension))
    (data,) = read([observe(of, point) for point in x], 0)
    unseen = np.random.default_rng(3).random((300, dimension))
    truth = measure(of, unseen)[:, 0]
    error = data.link.losses(fit_quadratic(data)[0].mean(unseen)) - truth
    assert 1.0 - np.mean(error**2) / truth.var() > 0.9


def test_56_coordinates_with_30_points_stay_sane() -> None:
    """1653 coefficients: the ridge keeps the fit within what was seen."""
    of = tasks(56, 1)
    x = np.random.default_rng(2).random((30, 56))
    (data,) = read([observe(of, point) for point in x], 0)
    losses = data.link.losses(fit_quadratic(data)[0].mean(np.random.default_rng(3).random((100, 56))))
    assert data.losses.min() - 0.1 < losses.min() <= losses.max() < data.losses.max() + 0.1


def test_left_out_predictions_equal_refits() -> None:
    """For least squares exactly; `offset` is kept, as a mean that was known before."""
    rng = np.random.default_rng(4)
    x, losses = rng.random((12, 2)), rng.normal(size=12)
    data = read([Observation(i, x[i], losses[i : i + 1]) for i in range(12)], 0)[0]
    process, unit = fit_quadratic(data)
    expected, variance = process.left_out()
    kernel = unit.scaled(data.spread**2)
    for i in range(12):
        rest = np.arange(12) != i
        k = kernel(x[rest], x[rest]) + np.diag(data.noise[rest])
        across = kernel(x[i : i + 1], x[rest])
        mean = process.offset + across @ np.linalg.solve(k, losses[rest] - process.offset)
        doubt = kernel.diagonal(x[i : i + 1]) - across @ np.linalg.solve(k, across.T) + data.noise[i]
        assert expected[i] == pytest.approx(mean[0], abs=1e-6)
        assert variance[i] == pytest.approx(doubt[0, 0], rel=1e-6)


def test_left_out_rates_are_close_to_refits() -> None:
    """The weights of the others move a little when a point goes; its share of the prediction is exact."""
    data = rate_data(20, 100)
    process, unit = fit_quadratic(data)
    expected, _ = process.left_out()
    gaps = []
    for i in range(20):
        rest = np.arange(20) != i
        part = Data(data.link, data.x[rest], data.losses[rest], data.latents[rest], data.noise[rest], data.counts[rest])
        latents = part.latents
        for _ in range(30):
            refit = Process.given(unit.scaled(data.spread**2), part.x, *data.link.working(part, latents))
            latents = refit.mean(part.x)
        gaps.append(data.link.losses(refit.mean(data.x[i : i + 1]))[0] - data.link.losses(expected)[i])
    assert np.abs(gaps).max() < 0.02
    assert np.abs(gaps).max() < 0.5 * np.abs(data.link.losses(expected) - data.losses).max()
