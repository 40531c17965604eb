"""`hyperband` keeps the contract of optimizers that ask for parts."""

from evomerge.optimizers.hyperband import Hyperband
from tests.contracts.parts import PartsContract


class TestHyperband(PartsContract):
    plugin = Hyperband
    learns = True
