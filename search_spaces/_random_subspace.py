"""Values of many groups along a few random directions through the start (Li et al., 2018). https://arxiv.org/abs/1804.08838.

Notation: u (n_groups,) positions of one input's values between the bounds of a parameter, from 0 to 1; s those of the
start; z (n_directions,) coordinates; P (n_groups, n_directions) orthonormal. Then

    logit u = logit s + reach sqrt(n_groups) P (2 z - 1),

so that all z between 0 and 1 give values between the bounds, and each value of the subspace has one z.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from search_spaces._columns import IntArray
from search_spaces._table import FloatArray

#: Root mean square change of the groups' logits from the middle of a direction to its end.
_REACH = 1.0
#: A start at a bound begins this far inside: from the bound itself no step would lead away.
_INSIDE = 1e-3


@dataclass(frozen=True, eq=False)
class RandomSubspace:
    """A nonlinear `Blend`: the first n_groups of the searched groups move along directions, tied ones are free.

    start: logit s of each input, (n_groups, n_inputs). steps: reach sqrt(n_groups) P of each input, (n_inputs,
    n_groups, n_directions). ties: names of further slots. tied: slot among `ties` of each group after the first
    n_groups, in order.
    """

    start: FloatArray
    steps: FloatArray
    ties: tuple[str, ...]
    tied: IntArray

    @property
    def slots(self) -> tuple[str, ...]:
        """Names of the directions and of the ties."""
        return (*(f"direction.{n}" for n in range(self.steps.shape[2])), *self.ties)

    def __call__(self, points: FloatArray) -> FloatArray:
        """Map points of slots (n_slots, n_inputs) to positions of groups, (n_groups + n_tied, n_inputs)."""
        n = self.steps.shape[2]
        moved = _expit(self.start + np.einsum("igd,di->gi", self.steps, 2.0 * points[:n] - 1.0))
        return np.concatenate([moved, points[n:][self.tied]])

    def solve(self, points: FloatArray) -> FloatArray:
        """Return points of slots for positions of groups: exactly if possible, else by least squares of logits."""
        n_groups, n = self.steps.shape[1:]
        found = np.full((n + len(self.ties), points.shape[1]), 0.5)
        if n:
            away = _logit(np.clip(points[:n_groups], 1e-15, 1.0 - 1e-15)) - self.start
            away[(points[:n_groups] < _INSIDE) & (self.start == _logit(_INSIDE))] = 0.0
            away[(points[:n_groups] > 1.0 - _INSIDE) & (self.start == _logit(1.0 - _INSIDE))] = 0.0
            by_direction = np.einsum("igd,gi->di", self.steps, away) / (_REACH**2 * n_groups)
            found[:n] = np.clip(0.5 + 0.5 * by_direction, 0.0, 1.0)
        found[n + self.tied] = points[n_groups:]
        return found

    def pull_back(self, points: FloatArray, gradient: FloatArray) -> FloatArray:
        """Return the gradient by points of slots (n_slots, n_inputs), given the one by positions of groups."""
        n_groups, n = self.steps.shape[1:]
        positions = self(points)[:n_groups]
        slots = np.zeros_like(points)
        slots[:n] = 2.0 * np.einsum("igd,gi->di", self.steps, gradient[:n_groups] * positions * (1.0 - positions))
        np.add.at(slots, n + self.tied, gradient[n_groups:])
        return slots

    def mean_by_slot(self, values: FloatArray) -> FloatArray:
        """Return the mean over all groups for each direction, and over its own groups for each tie."""
        n_groups, n = self.steps.shape[1:]
        ties = [values[n_groups:][self.tied == tie].mean() for tie in range(len(self.ties))]
        return np.concatenate([np.full(n, values[:n_groups].mean() if n else 0.0), np.array(ties)])

    def with_ties(self, ties: Mapping[str, int]) -> "RandomSubspace":
        """Return this blend with one more slot per tie at the end; ties: label -> number of groups sharing it."""
        tied = np.repeat(np.arange(len(self.ties), len(self.ties) + len(ties)), list(ties.values()))
        return RandomSubspace(
            self.start, self.steps, (*self.ties, *ties), np.concatenate([self.tied, tied]).astype(np.int64)
        )


def random_subspace(name: str, start: FloatArray, n_directions: int, seed: int) -> RandomSubspace:
    """Draw the directions of a parameter; the first one moves all groups alike.

    Args:
        name: Of the parameter; each has directions of its own, and so has each input.
        start: Positions of the start, (n_groups, n_inputs).
        n_directions: Number of directions; at most one per group is drawn.
        seed: Key of the draw.
    """
    n_groups, n_inputs = start.shape
    n = min(n_directions, n_groups)
    steps = np.zeros((n_inputs, n_groups, n))
    for index in range(n_inputs if n else 0):
        rng = np.random.default_rng((seed, zlib.crc32(name.encode()), index))
        drawn = rng.standard_normal((n_groups, n))
        drawn[:, 0] = 1.0
        factor, triangle = np.linalg.qr(drawn)
        steps[index] = _REACH * np.sqrt(n_groups) * factor * np.sign(np.diag(triangle))
    inside = _logit(np.clip(start, _INSIDE, 1.0 - _INSIDE))
    return RandomSubspace(inside, steps, (), np.zeros(0, dtype=np.int64))


def _expit(values: FloatArray) -> FloatArray:
    from scipy.special import expit  # its import takes longer than most commands

    return np.asarray(expit(values))


def _logit(values: FloatArray | float) -> FloatArray:
    from scipy.special import logit

    return np.asarray(logit(values))
