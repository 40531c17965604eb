"""`map` with many coefficients: coarse to fine, modelling after a few points, and no claim without evidence."""

import numpy as np
import pytest
from scipy.special import expit

from evomerge.optimizers.base import FloatArray, Measures, Observation, Positions, TaskExamples
from evomerge.optimizers.map import Map
from evomerge.statistics import pareto

N_SERIES, N_DEPTHS = 4, 18
DIMENSION = N_SERIES * N_DEPTHS
POSITIONS = Positions(np.tile(np.arange(N_SERIES), N_DEPTHS), np.repeat(np.linspace(0.0, 1.0, N_DEPTHS), N_SERIES))
MEASURES = Measures((TaskExamples("low", 200, 0.5), TaskExamples("high", 200, 0.5)), positions=POSITIONS)
HARDNESS = np.random.default_rng(9).random(200)


def losses(x: FloatArray, task: int) -> FloatArray:
    """Examples' losses (200,): one task wants experts 0 and 1 in the lower layers, the other 2 and 3 in the upper."""
    own = (POSITIONS.series // 2 == task) & ((POSITIONS.depths < 0.5) == (task == 0))
    latent = 1.5 - 12.0 * np.mean((x[own] - 0.8) ** 2) - 8.0 * np.mean((x[~own] - 0.1) ** 2)
    return -(expit(latent) > HARDNESS).astype(np.float64)


def observe(x: FloatArray, number: int) -> Observation:
    examples = tuple(losses(x, task) for task in range(2))
    return Observation(number, x, np.array([each.mean() for each in examples]), True, examples)


def informed(seed: int = 0, **options: object) -> Map:
    optimizer = Map(DIMENSION, 2, seed, np.full(DIMENSION, 0.25), **options)
    optimizer.inform(MEASURES)
    return optimizer


def volume(points: FloatArray) -> float:
    values = np.array([[losses(x, task).mean() for task in range(2)] for x in points])
    return pareto.hypervolume(values, np.zeros(2))


@pytest.fixture(scope="module")
def driven() -> tuple[Map, list[Observation]]:
    optimizer, told = informed(), []
    while len(told) < 45 and optimizer.wants({}):
        told.append(observe(optimizer.ask(len(told)).x, len(told)))
        optimizer.tell(told[-1])
    return optimizer, told


@pytest.mark.slow
def test_it_models_before_twenty_points_and_frees_the_coordinates_then(driven: tuple[Map, list[Observation]]) -> None:
    told = driven[1]
    assert len(told) > 30
    tied = [np.ptp(seen.x.reshape(N_DEPTHS, N_SERIES), axis=0).max() < 1e-6 for seen in told]
    assert tied[:20] == [True] * 20
    assert not any(tied[20:])
    fresh = informed()
    for seen in told[:10]:
        assert fresh.predictions() == ()
        fresh.tell(seen)
    assert fresh.predictions()
    assert fresh.why_no_predictions() != ""


@pytest.mark.slow
def test_free_coordinates_find_more_than_tied_ones(driven: tuple[Map, list[Observation]]) -> None:
    x = np.array([seen.x for seen in driven[1]])
    grid = np.random.default_rng(0).random((400, N_SERIES))
    best_tied = volume(np.tile(grid, N_DEPTHS))
    assert volume(x) > best_tied
    predicted = np.array([point.x for point in driven[0].predictions()])
    assert volume(np.vstack([x, predicted])) >= volume(x)


@pytest.mark.slow
def test_the_same_history_gives_the_same_proposal(driven: tuple[Map, list[Observation]]) -> None:
    told = driven[1]
    for n in (5, 15, 30):
        again = informed()
        for seen in told[:n]:
            again.tell(seen)
        assert again.ask(n).x.tolist() == told[n].x.tolist()


def test_it_claims_nothing_while_its_surrogates_are_unreliable() -> None:
    """Losses that no model predicts: it does not end, whatever the tolerance, and says why."""
    optimizer = informed(tolerance=0.9)
    rng = np.random.default_rng(0)
    for number in range(50):
        x = optimizer.ask(number).x if number < 24 else rng.random(DIMENSION)
        examples = tuple(-(rng.random(200) < 0.5).astype(np.float64) for _ in range(2))
        optimizer.tell(Observation(number, x, np.array([each.mean() for each in examples]), True, examples))
    assert optimizer.wants({})
    said = optimizer.decisions()
    assert [text.split(" measurements")[0] for text in said] == ["After 25", "After 50"]
    assert all("for low" in text and "above 0.9" in text for text in said)
    assert informed(stop=False).decisions() == ()


def test_it_does_not_end_while_series_are_tied() -> None:
    """However well it predicts tied points: losses are linear in the series' values, and without noise."""
    optimizer = informed(tolerance=0.9)
    for number in range(20):
        assert optimizer.wants({})
        x = optimizer.ask(number).x
        z = x[:N_SERIES]
        optimizer.tell(Observation(number, x, np.array([z[0] - z[1], z[2] - z[3]])))
    assert min(model.r_squared for model in optimizer._belief().surrogates.models) > 0.9


@pytest.mark.slow
def test_without_positions_it_runs_and_models_as_early() -> None:
    """Studies of older versions do not say where their coordinates act."""
    optimizer = Map(DIMENSION, 2, 0, np.full(DIMENSION, 0.25))
    for number in range(22):
        optimizer.tell(observe(optimizer.ask(number).x, number))
    assert optimizer.predictions()
