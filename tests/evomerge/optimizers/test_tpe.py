"""`tpe` keeps the optimizers' contract."""

from evomerge.optimizers.tpe import Tpe
from tests.contracts.optimizer import OptimizerContract


class TestTpe(OptimizerContract):
    plugin = Tpe
    learns = True
    n_trials = 18
    budget = 60
