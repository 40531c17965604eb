"""The successful results of one objective as arrays, and how many of them a model may lack while many trials run.

A surrogate that is refitted for every proposal lacks nothing, and keeps few workers busy. Where many trials run, a
proposal lacks all their results anyway, and lacking some more costs little: the results that are modeled then grow in
steps of half of these trials, at most by a quarter. Which these are follows from numbers of workers and trials alone,
never from time, so a resumed search fits the same models.
"""

import math

import numpy as np

from evomerge.optimizers.base import FloatArray, Observation, Optimizer

#: Trials that run at the same time, besides the one to propose, from which on results are modeled in steps.
MANY = 12
#: Running trials per result that a model may lack.
_PER_RESULT = 2
#: Smallest number of results per step in them, as a new one says more where there are few.
_GROWTH = 4


class History:
    """Points and losses of the successful trials in the order of telling."""

    def __init__(self, dimension: int) -> None:
        self._x, self._losses = np.empty((64, dimension)), np.empty(64)
        self._n = 0

    def __len__(self) -> int:
        return self._n

    def add(self, observation: Observation) -> None:
        """Append a trial, unless it failed."""
        if observation.losses is None:
            return
        if self._n == len(self._losses):
            self._x = np.concatenate([self._x, np.empty_like(self._x)])
            self._losses = np.concatenate([self._losses, np.empty_like(self._losses)])
        self._x[self._n], self._losses[self._n] = observation.x, observation.losses[0]
        self._n += 1

    @property
    def x(self) -> FloatArray:
        """The points, (n, dimension)."""
        return self._x[: self._n]

    @property
    def losses(self) -> FloatArray:
        """The losses, (n,)."""
        return self._losses[: self._n]


def running(optimizer: Optimizer, n_pending: int) -> int:
    """Return how many trials run besides the next one; fewer are pending where workers wait for proposals."""
    return max(n_pending, optimizer.n_workers - 1)


def step(n_running: int, n_told: int) -> int:
    """Return the number of results in which a model's data grow, a power of two.

    Powers of two, as the number of running trials varies by some between proposals.
    """
    if n_running < MANY or n_told < _GROWTH:
        return 1
    return 1 << min(round(math.log2(n_running / _PER_RESULT)), math.floor(math.log2(n_told / _GROWTH)))
