"""`cma_es` keeps the optimizers' contract and is the library's loop, generation by generation."""

import cmaes
import numpy as np
import pytest

from evomerge.optimizers._generations import default_sigma
from evomerge.optimizers.base import Observation, OptimizerError
from evomerge.optimizers.cma_es import CmaEs
from tests.contracts.optimizer import OptimizerContract, quadratic


class TestCmaEs(OptimizerContract):
    plugin = CmaEs
    learns = True


class TestCmaEsSakana(OptimizerContract):
    plugin = CmaEs
    options = {"preset": "sakana"}  # noqa: RUF012 - read only
    shapes = ((7, 1),)
    learns = True
    follows_baselines = False


def loss_of(number: int, x: np.ndarray) -> np.ndarray | None:
    return None if number % 9 == 4 else quadratic(x, 1)


def test_one_slot_is_the_library_loop() -> None:
    start = np.array([0.9, 0.2, 0.5, 0.4, 0.6])
    optimizer = CmaEs(5, 1, 3, start, sigma=0.2, popsize=6)
    library = cmaes.CMA(start, 0.2, np.tile([0.0, 1.0], (5, 1)), n_max_resampling=10, population_size=6)
    generation = []
    for number in range(120):
        library.reseed_rng(optimizer._seed32(number))
        theirs, ours = library.ask(), optimizer.ask(number).x
        assert ours.tolist() == theirs.tolist()
        losses = loss_of(number, ours)
        optimizer.tell(Observation(number, ours, losses))
        generation.append((theirs, np.inf if losses is None else losses[0]))
        if len(generation) == 6:
            library.tell(generation)
            generation = []
    assert optimizer.recommend().tolist() == library.mean.tolist()


def told(optimizer: CmaEs, numbers: list[int], succeed: bool = True, proposed: bool = True) -> None:
    for number in numbers:
        x = optimizer.ask(number).x
        optimizer.tell(Observation(number, x, quadratic(x, 1) if succeed else None, proposed))


def test_the_mean_is_recommended_after_the_first_update() -> None:
    optimizer = CmaEs(3, 1, 0, popsize=5)
    told(optimizer, [0, 1, 2, 3])
    assert optimizer.recommend() is None
    told(optimizer, [4])
    assert optimizer.recommend().shape == (3,)


def test_baselines_do_not_enter_a_generation() -> None:
    with_baselines, without = (CmaEs(3, 1, 0, preset="sakana") for _ in range(2))
    told(with_baselines, [100, 101, 102, 103, 104, 105], proposed=False)
    assert with_baselines.recommend() is None
    for optimizer in (with_baselines, without):
        told(optimizer, list(range(14)))
    assert with_baselines.recommend().tolist() == without.recommend().tolist()


def test_ties_go_by_number_and_not_by_arrival() -> None:
    means = []
    points = [CmaEs(3, 1, 0, popsize=5).ask(number).x for number in range(5)]
    for order in ([0, 1, 2, 3, 4], [4, 2, 0, 3, 1]):
        optimizer = CmaEs(3, 1, 0, popsize=5)
        for number in order:
            optimizer.tell(Observation(number, points[number], np.array([1.0])))
        means.append(optimizer.recommend().tolist())
    assert means[0] == means[1]


def test_failures_never_attract_the_mean() -> None:
    optimizer = CmaEs(3, 1, 0, popsize=6)
    told(optimizer, [0, 1, 2, 3, 4], succeed=False)
    told(optimizer, [5])
    assert optimizer.recommend() is None, "one success of six is no generation"
    told(optimizer, [6, 7, 8, 9, 10])
    expected = CmaEs(3, 1, 0, popsize=6)
    told(expected, [5, 6, 7, 8, 9, 10])
    assert optimizer.recommend().tolist() == expected.recommend().tolist(), "the success was not thrown away"


def test_a_converged_search_widens_and_goes_on() -> None:
    optimizer = CmaEs(1, 1, 0, popsize=4)
    told(optimizer, list(range(1200)))
    spread = np.std([optimizer.ask(number).x for number in range(2000, 2050)])
    assert spread > 1e-12
    assert abs(optimizer.recommend()[0] - 0.2) < 0.2
    told(optimizer, list(range(1200, 3000)))
    assert abs(optimizer.recommend()[0] - 0.2) < 0.2


def test_presets_are_the_published_settings() -> None:
    start = np.array([0.25, 0.25, 1.0, 1.0])
    bounds = np.tile([0.0, 1.0], (4, 1))
    for preset, mean in (("sakana", np.full(4, 0.5)), ("mergekit_evolve", start)):
        optimizer = CmaEs(4, 1, 0, start, preset=preset)
        library = cmaes.CMA(mean, 1 / 6, bounds, n_max_resampling=10)
        assert library.population_size == 8
        library.reseed_rng(optimizer._seed32(0))
        assert optimizer.ask(0).x.tolist() == library.ask().tolist()
        told(optimizer, list(range(7)))
        assert optimizer.recommend() is None
        told(optimizer, [7])
        assert optimizer.recommend() is not None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "sakanna"}, "'sakanna'.*none, sakana, mergekit_evolve"),
        ({"preset": "sakana", "sigma": 0.2}, "fixes sigma and popsize"),
        ({"sigma": 0.0}, "sigma.*0.0"),
        ({"sigma": 1.5}, "sigma.*1.5"),
        ({"popsize": 3}, "popsize.*at least 4.*3"),
    ],
)
def test_options_are_checked(options: dict[str, object], message: str) -> None:
    with pytest.raises(OptimizerError, match=message):
        CmaEs(4, 1, 0, **options)


def test_the_search_begins_at_the_best_baseline_and_presets_do_not() -> None:
    def first(preset: str) -> np.ndarray:
        optimizer = CmaEs(20, 1, seed=0, preset=preset)
        for number, (place, loss) in enumerate([(0.3, 2.0), (0.7, 1.0), (0.2, 3.0)]):
            optimizer.tell(Observation(number, np.full(20, place), np.array([loss]), proposed=False))
        return optimizer.ask(3).x

    assert abs(first("none").mean() - 0.7) < 0.1
    assert abs(first("sakana").mean() - 0.5) < 0.1


@pytest.mark.parametrize(
    ("start", "sigma"),
    [
        ([0.5, 0.5, 0.5, 0.5], 0.13),
        ([0.25, 0.25, 0.25, 0.25], 0.13),
        ([0.125, 0.125, 0.875, 0.875], 0.065),
        ([0.125, 0.125, 1.0, 0.0], 0.065),  # such as a density of 1
        ([0.01, 0.01, 0.01, 0.01], 0.03),
        ([0.0, 0.0, 1.0, 0.0], 0.13),
    ],
)
def test_the_first_draws_stay_near_a_start_that_is_near_the_border(start: list[float], sigma: float) -> None:
    assert default_sigma(np.array(start)) == pytest.approx(sigma)
    points = [CmaEs(4, 1, 3, np.array(start), sigma=value).ask(1).x for value in (None, sigma)]
    assert np.allclose(*points)
