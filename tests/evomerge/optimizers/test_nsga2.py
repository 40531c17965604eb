"""`nsga2` keeps the optimizers' contract."""

from evomerge.optimizers.nsga2 import Nsga2
from tests.contracts.optimizer import OptimizerContract


class TestNsga2(OptimizerContract):
    plugin = Nsga2
    learns = True
    learns_fronts = True
