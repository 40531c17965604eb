"""The successful results of one objective as arrays, and how many of them a model may lack while many trials run.

A surrogate that is refitted for every proposal lacks nothing, and keeps few workers busy. While many trials are
pending, a proposal lacks all their results anyway, and lacking some more costs little: the results that are modeled
then grow in steps of a quarter of the pending trials. Which these are follows from numbers of trials alone, never from
time, so a resumed search fits the same models.
"""

import math

import numpy as np

from evomerge.optimizers.base import FloatArray, Observation

#: Pending trials from which on results are modeled in steps.
MANY = 12
#: Pending trials per result that a model may lack.
_PER_RESULT = 4


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


def step(n_pending: int) -> int:
    """Return the number of results in which a model's data grow: a quarter of the pending trials, as a power of two.

    Powers of two, as the number of pending trials varies by some between proposals.
    """
    return 1 if n_pending < MANY else 2 ** round(math.log2(n_pending / _PER_RESULT))
