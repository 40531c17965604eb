"""`map` keeps the optimizers' contract, measures what its front promises, and knows when to stop."""

import numpy as np
import pytest

from evomerge.optimizers.base import FloatArray, Observation, OptimizerError
from evomerge.optimizers.map import VERIFIED, Map
from evomerge.statistics import pareto
from tests.contracts.optimizer import OptimizerContract
from tests.evomerge.optimizers.landscapes import Task, drive, measure, observe, tasks

LIMITS = np.array([-0.75, np.inf])


class TestMap(OptimizerContract):
    plugin = Map
    options = {"initial": 4}  # noqa: RUF012 - read only
    shapes = ((1, 1), (56, 1), (7, 2), (2, 3))
    n_trials = 8
    learns = True
    learning_dimension = 3
    budget = 16


@pytest.mark.slow
class TestMapLarge(OptimizerContract):
    plugin = Map
    options = {"initial": 8}  # noqa: RUF012 - read only
    shapes = ((7, 1), (56, 2), (7, 3))
    n_trials = 16
    learns = True
    budget = 60


@pytest.fixture(scope="module")
def of() -> tuple[Task, ...]:
    return tasks(2, 2, seed=3)


@pytest.fixture(scope="module")
def finished(of: tuple[Task, ...]) -> tuple[Map, list[Observation]]:
    """A search that came to its own end."""
    optimizer = Map(2, 2, 0)
    return optimizer, drive(optimizer, of, 100)


def grid(of: tuple[Task, ...]) -> FloatArray:
    points = np.stack(np.meshgrid(*[np.linspace(0.0, 1.0, 41)] * 2), axis=-1).reshape(-1, 2)
    return measure(of, points)


def test_it_stops_when_predicted_and_measured_front_agree(
    of: tuple[Task, ...], finished: tuple[Map, list[Observation]]
) -> None:
    optimizer, told = finished
    assert 6 + VERIFIED <= len(told) <= 40
    assert not optimizer.wants({})
    assert optimizer.recommend() is None  # nothing that is better by more than noise
    predicted = optimizer.predictions()
    real = measure(of, np.array([point.x for point in predicted]))
    gaps = np.abs(np.array([point.losses for point in predicted]) - real).mean(axis=0)
    assert gaps.max() < 0.015
    dense = grid(of)
    measured = np.array([seen.losses for seen in told])
    reference = dense.max(axis=0)
    assert pareto.hypervolume(measured, reference) > 0.95 * pareto.hypervolume(dense, reference)


def test_twenty_measurements_give_the_front_of_three_objectives() -> None:
    of = tasks(3, 3, seed=1)
    optimizer = Map(3, 3, 0)
    assert len(drive(optimizer, of, 20)) <= 20
    predicted = optimizer.predictions()
    real = measure(of, np.array([point.x for point in predicted]))
    assert np.abs(np.array([point.losses for point in predicted]) - real).mean(axis=0).max() < 0.015
    dense = measure(of, np.stack(np.meshgrid(*[np.linspace(0.0, 1.0, 9)] * 3), axis=-1).reshape(-1, 3))
    front = dense[pareto.non_dominated(dense)]
    reference = front.max(axis=0) + 0.1 * np.ptp(front, axis=0)
    assert pareto.hypervolume(real, reference) > 0.95 * pareto.hypervolume(front, reference)


@pytest.mark.slow
def test_without_stop_it_goes_on_and_measures_no_point_twice(of: tuple[Task, ...]) -> None:
    optimizer = Map(2, 2, 0, stop=False, surrogate="quadratic")
    told = drive(optimizer, of, 50)
    assert len(told) == 50
    x = np.array([seen.x for seen in told])
    gaps = np.abs(x[:, None] - x[None]).max(axis=2) + np.eye(len(x))
    assert gaps.min() > 0.0
    assert gaps[6:, 6:].min() > 5e-3


def test_it_does_not_stop_while_measurements_contradict_it(finished: tuple[Map, list[Observation]]) -> None:
    """The same points, the latest of which failed every example, and a tolerance that would let promises go."""
    _, told = finished
    contradicted, calm = (Map(2, 2, 0, tolerance=0.3) for _ in range(2))
    for seen in told:
        calm.tell(seen)
        examples = tuple(np.zeros(250) for _ in range(2)) if seen in told[-VERIFIED:] else seen.examples
        contradicted.tell(Observation(seen.number, seen.x, np.array([e.mean() for e in examples]), True, examples))
    assert not calm.wants({})
    assert contradicted.wants({})


def test_points_of_others_count_and_pending_ones_are_believed(of: tuple[Task, ...]) -> None:
    """Six points of others leave three of its own; with those pending there is nothing to verify yet."""
    optimizer = Map(2, 2, 0)
    rng = np.random.default_rng(0)
    others = [observe(of, x, i, proposed=False) for i, x in enumerate(rng.random((6, 2)))]
    for seen in others:
        optimizer.tell(seen)
    pending: dict[int, FloatArray] = {}
    for number in range(6, 9):
        assert optimizer.predictions() == ()
        assert optimizer.why_no_predictions() == "map predicts a front once its design of 3 points is measured; 0 are"
        pending[number] = optimizer.ask(number, dict(pending)).x
    assert pending[6].tolist() == [0.5, 0.5]
    for number, x in pending.items():
        optimizer.tell(observe(of, x, number))
    assert len(optimizer.predictions()) >= 20
    optimizer.limit([-9.0, -9.0])
    assert optimizer.predictions() == ()
    assert "stay within what `keep` allows" in optimizer.why_no_predictions()
    optimizer.limit([np.inf, np.inf])
    first = optimizer.ask(9).x
    second = optimizer.ask(10, {9: first}).x
    assert np.abs(first - second).max() > 0.02


def test_failed_trials_are_not_asked_for_again() -> None:
    optimizer, asked = Map(2, 2, 0), set()
    for number in range(8):
        x = optimizer.ask(number).x
        asked.add(tuple(x.tolist()))
        optimizer.tell(Observation(number, x, None))
    assert len(asked) == 8
    assert optimizer.predictions() == ()
    assert optimizer.recommend() is None
    assert optimizer.wants({})


@pytest.mark.slow
def test_limits_bound_what_is_proposed_and_predicted(of: tuple[Task, ...]) -> None:
    """Every predicted point is within the limit up to its error; most measured ones are within, with noise."""
    optimizer = Map(2, 2, 0)
    optimizer.limit(LIMITS.tolist())
    told = drive(optimizer, of, 24)
    predicted = optimizer.predictions()
    assert predicted
    assert all((point.losses - point.errors <= LIMITS).all() for point in predicted)
    late = np.array([seen.losses for seen in told[6:]])
    free = Map(2, 2, 0)
    unlimited = np.array([seen.losses for seen in drive(free, of, 24)[6:]])
    assert np.mean(late[:, 0] <= LIMITS[0] + 0.02) > 0.6
    assert np.mean(late[:, 0] <= LIMITS[0]) > np.mean(unlimited[:, 0] <= LIMITS[0])


def test_it_does_not_stop_before_anything_keeps_the_limits(finished: tuple[Map, list[Observation]]) -> None:
    optimizer = Map(2, 2, 0)
    for seen in finished[1]:
        optimizer.tell(seen)
    assert not optimizer.wants({})
    optimizer.limit([-0.999, -0.999])
    assert optimizer.wants({})
    assert optimizer.ask(500).x.min() >= 0.0


def test_the_preference_moves_the_recommendation_and_what_is_measured(of: tuple[Task, ...]) -> None:
    means, recommended = [], []
    for weights in ([0.9, 0.1], [0.1, 0.9]):
        optimizer = Map(2, 2, 0, stop=False)
        optimizer.prefer(weights)
        told = drive(optimizer, of, 14)
        means.append(np.array([seen.losses for seen in told[6:]]).mean(axis=0))
        best = min(optimizer.predictions(), key=lambda point: float(point.losses @ np.array(weights)))
        recommended.append(best.losses)
    assert means[0][0] < means[1][0]
    assert means[0][1] > means[1][1]
    assert recommended[0][0] < recommended[1][0] - 0.02
    assert recommended[0][1] > recommended[1][1] + 0.02


def test_a_recommendation_beats_what_was_measured(of: tuple[Task, ...]) -> None:
    """After a design without luck, the worst of many points, there is one, and it holds: no time to stop."""
    x = np.random.default_rng(1).random((40, 2))
    x = x[np.argsort(measure(of, x).mean(axis=1))[-14:]]
    optimizer = Map(2, 2, 0, initial=10)
    told = [observe(of, point, number) for number, point in enumerate(x)]
    for seen in told:
        optimizer.tell(seen)
    best = min(float(np.mean(seen.losses)) for seen in told if seen.losses is not None)
    recommended = optimizer.recommend()
    assert recommended is not None
    assert optimizer.wants({})
    assert measure(of, recommended[None]).mean() < best - 0.02


@pytest.mark.parametrize(
    ("options", "said"),
    [({"initial": 2}, "at least 3"), ({"surrogate": "cubic"}, "'cubic'"), ({"tolerance": 0.0}, "between 0 and 1")],
)
def test_options_are_checked(options: dict[str, object], said: str) -> None:
    with pytest.raises(OptimizerError, match=said):
        Map(2, 2, 0, **options)
