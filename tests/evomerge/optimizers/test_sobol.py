"""`sobol` keeps the optimizers' contract."""

from evomerge.optimizers.sobol import Sobol
from tests.contracts.optimizer import OptimizerContract


class TestSobol(OptimizerContract):
    plugin = Sobol
