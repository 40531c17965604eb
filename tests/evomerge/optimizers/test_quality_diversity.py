"""`quality_diversity` keeps the optimizers' contract; its archives, turns and mutation are what they are said to be."""

import itertools

import numpy as np
import pytest

from evomerge.optimizers.base import Observation, OptimizerError
from evomerge.optimizers.quality_diversity import CycleQD
from tests.contracts.optimizer import OptimizerContract


class TestCycleQD(OptimizerContract):
    plugin = CycleQD
    options = {"mutation": 0.3}  # noqa: RUF012 - read only
    shapes = ((1, 2), (7, 2), (7, 3), (56, 2))
    learns_fronts = True


def told(points: list[list[float]], losses: list[list[float]], **options: float) -> CycleQD:
    settings = {"mutation": 0.0, "crossover": 0.0, "n_startup_trials": len(points), **options}
    optimizer = CycleQD(len(points[0]), len(losses[0]), 0, None, **settings)
    for number, (x, loss) in enumerate(zip(points, losses, strict=True)):
        optimizer.tell(Observation(number, np.array(x), np.array(loss)))
    return optimizer


#: Coordinates whose pairwise means tell who the parents were.
WHO = [[0.0], [0.1], [0.3], [0.7]]
PAIRS = {round((a[0] + b[0]) / 2, 6): {i, j} for (i, a), (j, b) in itertools.combinations(enumerate(WHO), 2)}


def parents(optimizer: CycleQD, task: int, n_trials: int = 60) -> list[set[int]]:
    """Of many trials about one task."""
    numbers = (100 + optimizer.n_objectives * n + task for n in range(n_trials))
    return [PAIRS[round(float(optimizer.ask(number).x[0]), 6)] for number in numbers]


def test_a_cell_keeps_its_best_and_every_second_trial_is_about_the_other_task() -> None:
    # Loss 1 in two bins: trials 0 and 1 share a cell of task 0, and 0 is better; so do 2 and 3, and 3 is better.
    # Loss 0 in two bins: 0 and 3 share a cell of task 1, and 3 is better; so do 1 and 2, and 2 is better.
    losses = [[0.1, 1.0], [0.9, 0.8], [1.0, 0.1], [0.0, 0.0]]
    optimizer = told(WHO, losses, bins=2)
    assert set(map(frozenset, parents(optimizer, 0))) == {frozenset({0, 3})}
    assert set(map(frozenset, parents(optimizer, 1))) == {frozenset({2, 3})}


def test_who_is_better_at_everything_is_drawn_more_often() -> None:
    optimizer = told(WHO, [[0.0, 0.0], [1.0, 1.0], [0.9, 0.9], [0.1, 0.1]])
    drawn = [sum(who in pair for pair in parents(optimizer, 0, 400)) for who in range(4)]
    # 0.64, 0.25, 0.2809 and 0.5929 before they are scaled to sum 1.
    assert drawn[0] > 1.4 * drawn[2]
    assert drawn[3] > 1.4 * drawn[1]


def test_one_elite_alone_has_no_children() -> None:
    optimizer = told(WHO, [[1.0, 0.0], [0.5, 0.0], [0.2, 0.0], [0.3, 0.0]])
    about_the_first = optimizer.ask(100).x[0]
    assert min(abs(about_the_first - x) for x in PAIRS) > 1e-6
    assert parents(optimizer, 1)


def test_mutation_goes_where_elites_differ() -> None:
    points = [[0.5, 0.2, 0.2], [0.5, 0.4, 0.4], [0.5, 0.8, 0.8], [0.5, 0.9, 0.9]]
    optimizer = told(points, [[1.0, 0.0], [0.6, 0.3], [0.3, 0.6], [0.0, 1.0]], mutation=0.5)
    children = np.array([optimizer.ask(number).x for number in range(100, 140)])
    np.testing.assert_allclose(children[:, 0], 0.5, atol=1e-9)
    np.testing.assert_allclose(children[:, 1], children[:, 2], atol=1e-9)
    means = {round((a[1] + b[1]) / 2, 9) for a, b in itertools.combinations(points, 2)}
    steps = np.array([min((value - mean for mean in means), key=abs) for value in children[:, 1]])
    assert (steps > 0.005).any()
    assert (steps < -0.005).any()


@pytest.mark.parametrize(
    "options", [{"bins": 0}, {"n_startup_trials": 1}, {"crossover": -0.5}, {"mutation": 1.5}], ids=str
)
def test_options_are_checked(options: dict[str, float]) -> None:
    with pytest.raises(OptimizerError, match=str(next(iter(options.values())))):
        CycleQD(2, 2, 0, None, **options)
    with pytest.raises(OptimizerError, match="at least 2 objective"):
        CycleQD(2, 1, 0)
