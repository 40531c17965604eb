"""The derivative blocks of the covariance, and what gradients tell of a score."""

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit

from evomerge.optimizers._links import read
from evomerge.optimizers._process import Process
from evomerge.optimizers._surrogates import fit
from evomerge.optimizers.base import Observation, Positions
from experiments.gradient_surrogates import JointProcess, by_both, by_second, value

POSITIONS = Positions(np.repeat([0, 1], 3), np.tile([0.0, 0.5, 1.0], 2))
STEP = 1e-5


def test_covariances_with_gradients_are_derivatives_of_the_covariance() -> None:
    rng = np.random.default_rng(0)
    a, b = torch.tensor(rng.random((2, 6))), torch.tensor(rng.random((3, 6)))
    root = rng.random((6, 6))
    shape = torch.tensor(root @ root.T), torch.tensor(1.3), torch.tensor(0.4)
    steps = torch.eye(6, dtype=torch.float64) * STEP
    first = torch.stack([(value(a, b + e, *shape) - value(a, b - e, *shape)) / (2 * STEP) for e in steps], -1)
    torch.testing.assert_close(by_second(a, b, *shape), first.reshape(2, 18), rtol=1e-6, atol=1e-7)
    both = torch.stack([(by_second(a + e, b, *shape) - by_second(a - e, b, *shape)) / (2 * STEP) for e in steps], 1)
    torch.testing.assert_close(by_both(a, b, *shape), both.reshape(12, 18), rtol=1e-6, atol=1e-7)


def _loss(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(2.0 * ((x - np.linspace(0.2, 0.8, 6)) ** 2).sum(axis=-1))


def test_gradients_of_the_loss_improve_predictions_of_the_score() -> None:
    rng = np.random.default_rng(0)
    x, later = rng.random((8, 6)), rng.random((50, 6))
    quantiles = (np.arange(200) + 0.5) / 200
    rates = expit(2.0 - 3.0 * _loss(x))
    told = [
        Observation(n, point, np.array([-np.mean(quantiles < rate)]), examples=(-(quantiles < rate).astype(float),))
        for n, (point, rate) in enumerate(zip(x, rates, strict=True))
    ]
    (data,) = read(told, 0)
    gradients = 4.0 * (x - np.linspace(0.2, 0.8, 6))
    joint = JointProcess(data, _loss(x), gradients, POSITIONS)
    plain: Process = fit(told, 1, "auto", POSITIONS).models[0].process
    wanted = expit(2.0 - 3.0 * _loss(later))

    def error(latents: NDArray[np.float64]) -> float:
        return float(np.sqrt(np.mean((expit(latents) - wanted) ** 2)))

    assert error(joint.mean(torch.tensor(later)).numpy()) < 0.5 * error(plain.mean(later))
