"""`successive_halving` keeps the contract of optimizers that ask for parts."""

from evomerge.optimizers.successive_halving import SuccessiveHalving
from tests.contracts.parts import PartsContract


class TestSuccessiveHalving(PartsContract):
    plugin = SuccessiveHalving
    learns = True
