"""The optimizers that follow gradients keep the contract of those that ask for parts."""

from evomerge.optimizers.auto import Auto
from evomerge.optimizers.gradient import Gradient
from evomerge.optimizers.gradient_front import GradientFront
from tests.contracts.parts import PartsContract


class TestGradient(PartsContract):
    plugin = Gradient
    ends = True
    learns = True


class TestAuto(PartsContract):
    plugin = Auto
    n_trials = 150
    ends = True
    learns = True
    budget = 40.0


class TestGradientFront(PartsContract):
    plugin = GradientFront
    n_objectives = 2
    n_trials = 400
    ends = True
