"""`gp` keeps the optimizers' contract; at the sizes where an ask takes seconds, in the slow suite."""

import pytest

from evomerge.optimizers.gp import GaussianProcess
from tests.contracts.optimizer import OptimizerContract


class TestGaussianProcess(OptimizerContract):
    plugin = GaussianProcess
    options = {"n_startup_trials": 4}  # noqa: RUF012 - read only
    shapes = ((1, 1), (2, 2))
    n_trials = 7
    learns = True
    learning_dimension = 3
    budget = 16


@pytest.mark.slow
class TestGaussianProcessLarge(OptimizerContract):
    plugin = GaussianProcess
    shapes = ((7, 1), (56, 1), (7, 3))
    n_trials = 16
    learns = True
    learns_fronts = True
    budget = 40
