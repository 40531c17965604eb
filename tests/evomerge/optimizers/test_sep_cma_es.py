"""`sep_cma_es` keeps the optimizers' contract."""

from evomerge.optimizers.sep_cma_es import SepCmaEs
from tests.contracts.optimizer import OptimizerContract


class TestSepCmaEs(OptimizerContract):
    plugin = SepCmaEs
    learns = True
