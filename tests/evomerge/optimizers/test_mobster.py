"""`mobster` keeps the contract of optimizers that ask for parts, and its process knows what a prefix says."""

import numpy as np
import pytest

from evomerge.optimizers._rung_process import RungProcess, fit
from evomerge.optimizers.base import FloatArray, OptimizerError
from evomerge.optimizers.mobster import Mobster
from tests.contracts.parts import PartsContract

LEAST, TOTAL = 20, 180


class TestMobster(PartsContract):
    plugin = Mobster
    dimensions = (1, 7)
    n_trials = 40
    n_resumed = 40
    learns = True
    budget = 8.0

    @pytest.mark.slow
    def test_beats_random_search_at_equal_cost(self) -> None:
        super().test_beats_random_search_at_equal_cost()


def bowl(x: FloatArray) -> FloatArray:
    return np.asarray(((x - 0.3) ** 2).sum(axis=1))


@pytest.fixture(scope="module")
def process() -> RungProcess:
    """Forty points on the lowest rung, whose examples are harder by 0.5, and five of them on all examples."""
    x = np.random.default_rng(0).random((40, 3))
    points, sizes = np.vstack([x, x[:5]]), np.repeat([float(LEAST), float(TOTAL)], [40, 5])
    return fit(points, sizes, bowl(points) + 0.5 * (sizes == LEAST), LEAST, TOTAL)


def test_results_on_few_examples_predict_those_on_all_but_for_the_difficulty_of_the_examples(
    process: RungProcess,
) -> None:
    points = np.random.default_rng(1).random((50, 3))
    low, high = process.predict(points, LEAST)[0], process.predict(points, TOTAL)[0]
    assert np.corrcoef(high, bowl(points))[0, 1] > 0.97
    losses = np.append(bowl(process.x[:40]) + 0.5, bowl(process.x[:5]))
    assert np.mean(low - high) * losses.std() == pytest.approx(0.5, abs=0.05)


def test_a_result_on_all_examples_leaves_less_doubt_than_one_on_few(process: RungProcess) -> None:
    deviation = process.predict(process.x[:40], TOTAL)[1]
    assert deviation[:5].max() < deviation[5:].min()
    assert np.all(process.predict(process.x[5:40], LEAST)[1] < deviation[5:])


def test_a_pending_point_is_expected_to_be_as_predicted(process: RungProcess) -> None:
    points = np.random.default_rng(2).random((20, 3))
    believing = process.believing([points[0]], [LEAST])
    for size in (LEAST, TOTAL):
        before, after = process.predict(points, size), believing.predict(points, size)
        assert after[0] == pytest.approx(before[0], abs=1e-4)
        assert np.all(after[1] <= before[1] + 1e-9)
        assert after[1][0] < before[1][0] - 1e-3
    assert process.believing([], []) is process


def test_the_covariance_of_prefixes_is_that_of_means_over_shared_examples() -> None:
    """Of 180 independent examples in one order: deviations of the means of prefixes from the mean of all."""
    examples = np.random.default_rng(0).standard_normal((20_000, TOTAL))
    total = examples.mean(axis=1)
    deviations = [examples[:, :size].mean(axis=1) - total for size in (20, 60)]
    found = np.cov(deviations)
    process = RungProcess(np.zeros((1, 1)), np.array([20.0]), np.zeros(1), np.zeros(4), LEAST, TOTAL)
    scale = found[0, 0]
    for (i, j), (a, b) in {(0, 1): (20, 60), (1, 1): (60, 60)}.items():
        assert found[i, j] / scale == pytest.approx(float(process.shared(a, b)), abs=0.02)
    assert float(process.shared(20, TOTAL)) == 0.0


def test_the_expected_improvement_is_exact_near_and_ordered_far_away(process: RungProcess) -> None:
    points = np.random.default_rng(3).random((200, 3))
    mean, deviation = process.predict(points, TOTAL)
    best = process.predict(process.x, TOTAL)[0].min()
    draws = mean + deviation * np.random.default_rng(4).standard_normal((40_000, 1))
    simulated = np.maximum(best - draws, 0.0).mean(axis=0)
    found = np.exp(process.improvement(points, TOTAL))
    likely = simulated > 1e-3
    assert likely.any()
    assert found[likely] == pytest.approx(simulated[likely], rel=0.2)
    assert np.isfinite(process.improvement(points, TOTAL)).all()


def test_too_few_candidates_to_fit_to_are_refused() -> None:
    with pytest.raises(OptimizerError, match="n_startup_trials"):
        Mobster(3, 1, 0, n_startup_trials=1)
