"""`motpe` keeps the optimizers' contract, and begins as published."""

import numpy as np

from evomerge.optimizers.base import Observation
from evomerge.optimizers.motpe import Motpe
from tests.contracts.optimizer import OptimizerContract, quadratic


class TestMotpe(OptimizerContract):
    plugin = Motpe
    options = {"n_startup_trials": 10}  # noqa: RUF012 - read only
    shapes = ((1, 2), (7, 2), (7, 3))
    learns_fronts = True
    n_trials = 18
    budget = 60


def test_begins_with_a_latin_hypercube_of_eleven_points_per_coordinate() -> None:
    optimizer = Motpe(2, 2, 0)
    points = []
    for number in range(21):
        points.append(optimizer.ask(number).x)
        optimizer.tell(Observation(number, points[-1], quadratic(points[-1], 2)))
    for column in np.array(points).T:
        assert sorted((column * 21).astype(int)) == list(range(21))  # a point in every slice of every axis
    hypercube = Motpe(2, 2, 0, n_startup_trials=22)
    for number in range(21):
        hypercube.tell(Observation(number, points[number], quadratic(points[number], 2)))
    assert optimizer.ask(21).x.tolist() != hypercube.ask(21).x.tolist()
