"""`nsga3` keeps the optimizers' contract."""

from evomerge.optimizers.nsga3 import Nsga3
from tests.contracts.optimizer import OptimizerContract


class TestNsga3(OptimizerContract):
    plugin = Nsga3
    shapes = ((1, 1), (7, 2), (7, 4))
    learns = True
    learns_fronts = True
