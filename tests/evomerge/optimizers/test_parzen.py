"""Parzen estimators are Optuna's, and so are the proposals that follow from them."""

import numpy as np
import pytest
from optuna.samplers import TPESampler

from evomerge.optimizers import _parzen
from evomerge.optimizers._optuna_view import OptunaView
from evomerge.optimizers.base import Observation
from evomerge.optimizers.tpe import Tpe


def experienced(optimizer: Tpe | OptunaView, dimension: int, n_told: int) -> None:
    rng = np.random.default_rng(n_told)
    for number in range(n_told):
        x = rng.random(dimension)
        losses = None if number % 9 == 4 else np.array([round(float(np.mean((x - 0.3) ** 2)), 3)])
        optimizer.tell(Observation(number, x, losses))


@pytest.mark.parametrize("dimension", [1, 5])
@pytest.mark.parametrize("n_told", [12, 70, 300])
@pytest.mark.parametrize("n_pending", [0, 3])
def test_a_proposal_is_that_of_optuna(dimension: int, n_told: int, n_pending: int) -> None:
    optimizer, view = Tpe(dimension, 1, 0), OptunaView(dimension, 1)
    experienced(optimizer, dimension, n_told)
    experienced(view, dimension, n_told)
    pending = {1000 + n: np.random.default_rng(n).random(dimension) for n in range(n_pending)}
    for number in (2000, 2001):
        sampler = TPESampler(n_startup_trials=10, constant_liar=True, seed=optimizer._seed32(number))
        assert optimizer.ask(number, pending).x == pytest.approx(view.suggest(sampler, pending), abs=1e-6)


def test_a_density_integrates_to_one() -> None:
    estimator = _parzen.Estimator.around(np.array([[0.0], [0.1], [0.12], [0.9]]))
    grid = (np.arange(20_000)[:, None] + 0.5) / 20_000
    assert np.exp(estimator.log_density(grid)).mean() == pytest.approx(1.0, abs=1e-6)


def test_samples_follow_the_density() -> None:
    estimator = _parzen.Estimator.around(np.array([[0.0], [0.1], [0.12], [0.9]]))
    drawn = estimator.sample(np.random.RandomState(0), 20_000)[:, 0]
    grid = (np.arange(2000)[:, None] + 0.5) / 2000
    below = np.exp(estimator.log_density(grid)).cumsum() / 2000
    assert np.abs(np.interp(np.sort(drawn), grid[:, 0], below) - np.arange(20_000) / 20_000).max() < 0.02


def test_with_many_pending_only_bandwidths_are_older() -> None:
    """Every result and every pending point has one kernel with the weight that it has in a fresh estimator."""
    optimizer = Tpe(2, 1, 0)
    experienced(optimizer, 2, 200)
    optimizer.ask(500, {300 + n: np.full(2, n / 12) for n in range(12)})
    assert optimizer._bad is not None
    assert optimizer._split is not None
    n_told = len(optimizer._history)
    assert n_told - n_told // 32 < optimizer._bad.n_told < n_told
    bad = optimizer._split.bad
    pending = [np.full(2, n / 12) for n in range(12)]
    stale = optimizer._bad.with_newer(optimizer._history, bad, pending)
    fresh = _parzen.Estimator.around(np.vstack([optimizer._history.x[bad], *pending]))
    centers = np.vstack([group.centers for group in stale.groups])
    kept = np.isfinite(stale.log_weights)
    found = sorted(zip(centers[kept].tolist(), stale.log_weights[kept].round(9).tolist(), strict=True))
    same = np.vstack([group.centers for group in fresh.groups])
    assert found == sorted(zip(same.tolist(), fresh.log_weights.round(9).tolist(), strict=True))
