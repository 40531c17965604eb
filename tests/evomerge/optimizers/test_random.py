"""`random` keeps the optimizers' contract."""

from evomerge.optimizers.random import RandomSearch
from tests.contracts.optimizer import OptimizerContract


class TestRandomSearch(OptimizerContract):
    plugin = RandomSearch
