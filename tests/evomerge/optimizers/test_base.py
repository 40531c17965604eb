"""The messages of the optimizers' contract: the value, what was expected, what to do."""

import numpy as np
import pytest

from evomerge.optimizers.base import FloatArray, Observation, Optimizer, OptimizerError
from evomerge.optimizers.cma_es import CmaEs
from evomerge.optimizers.random import RandomSearch


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((0, 1, 0), "at least one free coefficient; got 0"),
        ((2, 0, 0), "got 0"),
        ((2, 1, -1), "non-negative integer seed; got -1"),
        ((2, 1, 0, np.zeros(3)), r"shape \(2,\); got \(3,\)"),
        ((2, 1, 0, np.array([0.5, 1.5])), "1.5"),
        ((2, 1, 0, np.array([0.5, np.nan])), "nan"),
    ],
)
def test_construction(given: tuple[int, int, int, FloatArray], message: str) -> None:
    with pytest.raises(OptimizerError, match=message):
        RandomSearch(*given)


def test_too_many_objectives() -> None:
    with pytest.raises(OptimizerError, match=r"CmaEs supports at most 1 objective\(s\); got 2"):
        CmaEs(2, 2, 0)


def test_points_are_read_only() -> None:
    with pytest.raises(ValueError, match="read-only"):
        RandomSearch(2, 1, 0).ask(0).x[0] = 0.0


def test_numbers_start_at_zero() -> None:
    with pytest.raises(OptimizerError, match="-1"):
        RandomSearch(2, 1, 0).ask(-1)


@pytest.mark.parametrize(
    ("observation", "message"),
    [
        (Observation(4, np.zeros(2), np.array([np.nan])), "Trial 4.*nan.*losses=None"),
        (Observation(4, np.zeros(2), np.zeros(2)), r"Expected 1 losses.*\(2,\)"),
        (Observation(3, np.zeros(2), None), "Trial 3 has already been told"),
    ],
)
def test_telling(observation: Observation, message: str) -> None:
    optimizer: Optimizer = RandomSearch(2, 1, 0)
    optimizer.tell(Observation(3, np.zeros(2), np.zeros(1)))
    with pytest.raises(OptimizerError, match=message):
        optimizer.tell(observation)
