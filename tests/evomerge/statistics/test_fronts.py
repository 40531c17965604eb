"""The hypervolume's interval, counted over simulated studies."""

import numpy as np
import pytest

from evomerge.statistics import bootstrap_means, hypervolume_interval, pareto
from tests.evomerge.statistics.studies import Simulated

SIZES = (80, 150, 300)


def covered(seed: int, abilities: np.ndarray) -> tuple[bool, bool]:
    """Whether the interval holds the true volume, and whether the percentiles of plain resamples do."""
    n_tasks = abilities.shape[1]
    study = Simulated(abilities, np.random.Generator(np.random.Philox(key=seed)))
    answers = study.answers(SIZES[:n_tasks])
    reference = np.zeros(n_tasks)
    true = pareto.hypervolume(-study.true_means, reference)
    means = bootstrap_means(answers, n_resamples=150, seed=seed)
    found = hypervolume_interval(answers, means, reference, seed=seed)
    plain = np.quantile([pareto.hypervolume(-points, reference) for points in means], (0.025, 0.975))
    return found.low <= true <= found.high, plain[0] <= true <= plain[1]


@pytest.mark.slow
def test_candidates_that_scatter() -> None:
    """10 to 25 candidates of normal abilities: the volume of resamples would be too large in most studies."""
    found = []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        shape = ((10, 2), (25, 2), (12, 3))[seed % 3]
        found.append(covered(seed, 0.3 + 0.4 * rng.standard_normal(shape)))
    ours, plain = np.mean(found, axis=0)
    assert 0.93 <= ours <= 0.97, ours
    assert plain < 0.85


def test_a_task_that_tells_nothing_apart() -> None:
    """No spread and no noise in one task: the interval is that of the other."""
    rng = np.random.default_rng(0)
    values = {"a": (rng.random((8, 200)) < 0.6).astype(float), "b": np.ones((8, 50))}
    found = hypervolume_interval(values, bootstrap_means(values, n_resamples=200), np.zeros(2))
    alone = hypervolume_interval({"a": values["a"]}, bootstrap_means({"a": values["a"]}, n_resamples=200), np.zeros(1))
    assert found.value == pytest.approx(alone.value)
    assert (found.low, found.high) == pytest.approx((alone.low, alone.high), abs=0.02)


def test_the_same_seed_gives_the_same_interval() -> None:
    values = {task: np.random.default_rng(1).random((6, 40)) for task in "ab"}
    means = bootstrap_means(values, n_resamples=50)
    first, again, other = (hypervolume_interval(values, means, np.zeros(2), seed=seed) for seed in (3, 3, 4))
    assert first == again
    assert first != other


@pytest.mark.slow
def test_few_points_along_a_front() -> None:
    """Each the best at its own mixture of two tasks, not at all normal about a mean."""
    angle = np.linspace(0, np.pi / 2, 5)
    abilities = 0.3 + 0.6 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    ours, plain = np.mean([covered(seed, abilities) for seed in range(300)], axis=0)
    assert 0.93 <= ours <= 0.97, ours
    assert plain < 0.85
