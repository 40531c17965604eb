"""Scales: from coordinates in [0, 1] to the values of one parameter in one group, and back."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from search_spaces._table import FloatArray

#: How far a value may be from a space to count as in it, relative to the size of the values.
TOLERANCE = 1e-12


class Scale(Protocol):
    """A map from n_coordinates numbers in [0, 1] to the row of values of one group."""

    def labels(self, inputs: Sequence[str]) -> tuple[str, ...]:
        """Names of the n_coordinates coordinates of a parameter with a value per input."""

    def default(self, value: float, /) -> FloatArray:
        """The row that a search starts from when the method's own default is `value`."""

    def contains(self, values: FloatArray) -> bool:
        """Whether a row of values is in the image, up to TOLERANCE."""

    def values(self, points: FloatArray) -> FloatArray:
        """Rows of values (n, width) at points (n, n_coordinates)."""

    def points(self, values: FloatArray) -> FloatArray:
        """Points (n, n_coordinates) that give rows of values (n, width) of the image."""


@dataclass(frozen=True)
class Box:
    """Every value lies between two bounds, which the coordinates 0 and 1 hit exactly."""

    low: float
    high: float
    width: int

    def __str__(self) -> str:
        return f"values in [{self.low}, {self.high}]"

    def labels(self, inputs: Sequence[str]) -> tuple[str, ...]:
        """One coordinate per input, with its name."""
        return tuple(inputs)

    def default(self, value: float, /) -> FloatArray:
        """`value` for every input, moved between the bounds."""
        return np.full(self.width, min(max(value, self.low), self.high))

    def contains(self, values: FloatArray) -> bool:
        """Whether all values lie between the bounds."""
        slack = TOLERANCE * max(1.0, abs(self.low), abs(self.high))
        return bool((values >= self.low - slack).all() and (values <= self.high + slack).all())

    def values(self, points: FloatArray) -> FloatArray:
        """Linear between the bounds, exact at both."""
        return np.clip((1.0 - points) * self.low + points * self.high, self.low, self.high)

    def points(self, values: FloatArray) -> FloatArray:
        """Inverse of `values`, to the last bit where `values` can give the number at all."""
        guess = np.clip((values - self.low) / (self.high - self.low), 0.0, 1.0)
        best = guess
        for ulps in (-1, 1, -2, 2):
            near = np.clip(guess + ulps * np.spacing(guess), 0.0, 1.0)
            best = np.where((self.values(best) != values) & (self.values(near) == values), near, best)
        return best


@dataclass(frozen=True)
class Simplex:
    """Values per input that are not negative and sum to 1, by stick breaking; n_inputs - 1 coordinates.

    Uniform points give values uniform on the simplex: the share of the stick that is left after input i is
    x_i^(1/k), k = inputs still to come (Beta marginals, https://en.wikipedia.org/wiki/Dirichlet_distribution).
    A coordinate of 0 gives all that is left to its input, 1 gives it nothing.
    """

    n_inputs: int

    def __str__(self) -> str:
        return f"{self.n_inputs} values that are not negative and sum to 1"

    def labels(self, inputs: Sequence[str]) -> tuple[str, ...]:
        """`after X`: the share of what is left that goes to the inputs after X."""
        return tuple(f"after {name}" for name in inputs[:-1])

    def default(self, _value: float, /) -> FloatArray:
        """The same share for every input."""
        return np.full(self.n_inputs, 1.0 / self.n_inputs)

    def contains(self, values: FloatArray) -> bool:
        """Whether a row is on the simplex."""
        return bool((values >= -TOLERANCE).all() and abs(values.sum() - 1.0) <= TOLERANCE * self.n_inputs)

    def values(self, points: FloatArray) -> FloatArray:
        """Lengths of the pieces of a stick of length 1."""
        left = np.ones((len(points), self.n_inputs + 1))  # before each input, and 0 behind the last
        left[:, -1] = 0.0
        left[:, 1:-1] = np.cumprod(points ** (1.0 / self._to_come()), axis=1)
        return left[:, :-1] - left[:, 1:]

    def points(self, values: FloatArray) -> FloatArray:
        """Inverse of `values`; 1 where nothing is left to share."""
        left = np.cumsum(np.maximum(values, 0.0)[:, ::-1], axis=1)[:, ::-1]
        share = np.divide(left[:, 1:], left[:, :-1], out=np.ones_like(left[:, 1:]), where=left[:, :-1] > 0.0)
        points: FloatArray = np.clip(share, 0.0, 1.0) ** self._to_come()
        return points

    def _to_come(self) -> FloatArray:
        return np.arange(self.n_inputs - 1, 0, -1, dtype=np.float64)
