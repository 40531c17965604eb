"""`map` keeps the optimizers' contract."""

from evomerge.optimizers.map import Map
from tests.contracts.optimizer import OptimizerContract


class TestMap(OptimizerContract):
    plugin = Map
    options = {"initial": 5}  # noqa: RUF012 - read only
    n_trials = 12
    learns = True
    learning_dimension = 3
    budget = 16
