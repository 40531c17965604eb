"""`cqr` keeps the optimizers' contract; its quantiles cover what they should, and corrections widen narrow bands."""

import numpy as np
import pytest

from evomerge.optimizers._quantile_trees import _quantile, fit_quantile
from evomerge.optimizers.base import FloatArray, OptimizerError
from evomerge.optimizers.cqr import _LEVELS, QuantileRegression, Quantiles
from tests.contracts.optimizer import OptimizerContract


class TestQuantileRegression(OptimizerContract):
    plugin = QuantileRegression
    options = {"n_startup_trials": 6}  # noqa: RUF012 - read only
    shapes = ((1, 1), (7, 1))
    n_trials = 11
    learns = True
    learning_dimension = 3
    budget = 24

    @pytest.mark.slow
    def test_beats_random_search(self) -> None:
        super().test_beats_random_search()


def noisy(n: int, seed: int) -> tuple[FloatArray, FloatArray]:
    """A loss whose noise grows with the third coordinate."""
    rng = np.random.default_rng(seed)
    x = rng.random((n, 3))
    return x, 3.0 * (x[:, 0] - 0.3) ** 2 + x[:, 1] + 0.5 * x[:, 2] * rng.standard_normal(n)


@pytest.mark.parametrize("level", [1 / 6, 0.5, 5 / 6])
def test_the_trees_of_a_level_lie_above_that_share_of_new_results(level: float) -> None:
    quantile = fit_quantile(*noisy(400, 0), level)
    x, y = noisy(2000, 1)
    assert np.mean(y < quantile(x)) == pytest.approx(level, abs=0.08)
    constant = np.quantile(y, level)
    assert _pinball(y, quantile(x), level) < 0.65 * _pinball(y, np.full(len(y), constant), level)


def _pinball(y: FloatArray, predicted: FloatArray, level: float) -> float:
    return float(np.mean(np.maximum(level * (y - predicted), (level - 1.0) * (y - predicted))))


def test_the_quantile_of_a_leaf_is_numpys() -> None:
    values = np.random.default_rng(0).standard_normal(7)
    for level in (0.0, 0.1, 0.5, 0.83, 1.0):
        assert _quantile(values, level) == pytest.approx(np.quantile(values, level))
    assert _quantile(values[:1], 0.3) == values[0]


def test_few_results_are_not_held_out_and_more_correct_the_bands() -> None:
    assert not Quantiles(*noisy(31, 0), np.random.default_rng(0)).corrections.any()
    corrections = Quantiles(*noisy(120, 0), np.random.default_rng(0)).corrections[:, 0]
    np.testing.assert_array_equal(corrections, -corrections[::-1])
    assert corrections[0] < 0.0 < corrections[-1], "trees are too sure of what they were fitted to"
    assert corrections[2] == 0.0


def test_a_corrected_band_covers_more_of_the_new_results() -> None:
    x, y = noisy(3000, 1)
    covered = []
    for seed in range(3):
        quantiles = Quantiles(*noisy(50, seed), np.random.default_rng(seed))
        corrected = quantiles(x)
        covered += [[np.mean((q[0] <= y) & (y <= q[-1])) for q in (corrected, corrected - quantiles.corrections)]]
    with_correction, without = np.mean(covered, axis=0)
    wanted = _LEVELS[-1] - _LEVELS[0]
    assert abs(with_correction - wanted) < abs(without - wanted)


def test_a_fit_needs_two_results() -> None:
    with pytest.raises(OptimizerError, match="n_startup_trials"):
        QuantileRegression(3, 1, 0, n_startup_trials=1)
