"""Scales: maps between coordinates in [0, 1] and the values of one parameter in one group."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from search_spaces._table import FloatArray

#: Relative tolerance for a value to count as inside a space.
TOLERANCE = 1e-12
#: Roots have an infinite slope at 0: below this coordinate, the slope here.
_STEEPEST = 1e-3


class Scale(Protocol):
    """Maps n_coordinates numbers in [0, 1] to the row of values of one group."""

    def labels(self, inputs: Sequence[str]) -> tuple[str, ...]:
        """Return the names of the n_coordinates coordinates of a per-input parameter."""

    def default(self, value: float, /) -> FloatArray:
        """Return the row that a search starts from, given the method's default `value`."""

    def contains(self, values: FloatArray) -> bool:
        """Return whether a row of values is in the image, up to TOLERANCE."""

    def values(self, points: FloatArray) -> FloatArray:
        """Map points (n, n_coordinates) to rows of values (n, width)."""

    def points(self, values: FloatArray) -> FloatArray:
        """Return points (n, n_coordinates) that map to the rows of values (n, width) of the image."""

    def pull_back(self, points: FloatArray, gradient: FloatArray, /) -> FloatArray:
        """Return the gradient by the points (n, n_coordinates), given the one by their values (n, width)."""


@dataclass(frozen=True)
class Box:
    """Independent values between two bounds, which the coordinates 0 and 1 reach exactly."""

    low: float
    high: float
    width: int

    def __str__(self) -> str:
        return f"values in [{self.low}, {self.high}]"

    def labels(self, inputs: Sequence[str]) -> tuple[str, ...]:
        """Return one coordinate per input, with its name."""
        return tuple(inputs)

    def default(self, value: float, /) -> FloatArray:
        """Return `value`, clipped to the bounds, for every input."""
        return np.full(self.width, min(max(value, self.low), self.high))

    def contains(self, values: FloatArray) -> bool:
        """Return whether all values lie between the bounds."""
        slack = TOLERANCE * max(1.0, abs(self.low), abs(self.high))
        return bool((values >= self.low - slack).all() and (values <= self.high + slack).all())

    def values(self, points: FloatArray) -> FloatArray:
        """Interpolate linearly between the bounds, exact at both."""
        values = (1.0 - points) * self.low + points * self.high
        return np.minimum(np.maximum(values, self.low), self.high)  # `clip` takes as long as all of this

    def points(self, values: FloatArray) -> FloatArray:
        """Invert `values`, to the last bit where `values` can produce the number."""
        guess = np.clip((values - self.low) / (self.high - self.low), 0.0, 1.0)
        best = guess
        for ulps in (-1, 1, -2, 2):
            near = np.clip(guess + ulps * np.spacing(guess), 0.0, 1.0)
            best = np.where((self.values(best) != values) & (self.values(near) == values), near, best)
        return best

    def pull_back(self, _points: FloatArray, gradient: FloatArray, /) -> FloatArray:
        """Multiply by the width of the range."""
        return gradient * (self.high - self.low)


@dataclass(frozen=True)
class Simplex:
    """Non-negative values per input that sum to 1, by stick breaking; n_inputs - 1 coordinates.

    Uniform points give values uniform on the simplex: the fraction of the stick left after input i is x_i^(1/k), where
    k inputs are still to come (Beta marginals, https://en.wikipedia.org/wiki/Dirichlet_distribution). A coordinate of 0
    gives the whole rest to its input, 1 gives it nothing.
    """

    n_inputs: int

    def __str__(self) -> str:
        return f"{self.n_inputs} non-negative values that sum to 1"

    def labels(self, inputs: Sequence[str]) -> tuple[str, ...]:
        """Return labels `after X`: the fraction of the rest that goes to the inputs after X."""
        return tuple(f"after {name}" for name in inputs[:-1])

    def default(self, _value: float, /) -> FloatArray:
        """Return the same value for every input."""
        return np.full(self.n_inputs, 1.0 / self.n_inputs)

    def contains(self, values: FloatArray) -> bool:
        """Return whether a row is on the simplex."""
        return bool((values >= -TOLERANCE).all() and abs(values.sum() - 1.0) <= TOLERANCE * self.n_inputs)

    def values(self, points: FloatArray) -> FloatArray:
        """Return the lengths of the pieces of a stick of length 1."""
        left = np.ones((len(points), self.n_inputs + 1))  # before each input, and 0 after the last
        left[:, -1] = 0.0
        left[:, 1:-1] = np.cumprod(points ** (1.0 / self._to_come()), axis=1)
        return left[:, :-1] - left[:, 1:]

    def points(self, values: FloatArray) -> FloatArray:
        """Invert `values`; 1 where nothing is left to share."""
        left = np.cumsum(np.maximum(values, 0.0)[:, ::-1], axis=1)[:, ::-1]
        share = np.divide(left[:, 1:], left[:, :-1], out=np.ones_like(left[:, 1:]), where=left[:, :-1] > 0.0)
        points: FloatArray = np.clip(share, 0.0, 1.0) ** self._to_come()
        return points

    def pull_back(self, points: FloatArray, gradient: FloatArray, /) -> FloatArray:
        """Return the gradient by the points; at most that at the coordinate 1e-3, since it is infinite at 0."""
        power = 1.0 / self._to_come()
        share = points**power
        slope = power * np.maximum(points, _STEEPEST) ** (power - 1.0)
        # The gradient by what is left after each input: its piece shrinks, the next one's grows.
        by_left = gradient[:, 1:] - gradient[:, :-1]
        result = np.zeros_like(points)
        for coordinate in range(points.shape[1]):
            factors = share.copy()
            factors[:, coordinate] = slope[:, coordinate]
            left = np.cumprod(factors, axis=1)
            result[:, coordinate] = (by_left * left)[:, coordinate:].sum(axis=1)
        return result

    def _to_come(self) -> FloatArray:
        return np.arange(self.n_inputs - 1, 0, -1, dtype=np.float64)
