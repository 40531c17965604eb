"""Coefficients along orthogonal directions of the deltas' span, for the checkpoints of one run.

LCSC (Liu et al., 2024) searches a coefficient of either sign for each checkpoint. https://arxiv.org/abs/2404.02241.
Checkpoints of one run are nearly parallel, so that their own coefficients trade off against each other; the directions
do not: they are the eigenvectors of the deltas' Gram matrix.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from search_spaces._transforms import TOLERANCE
from search_spaces.base import CoefficientTable, Design, FloatArray, Layout, Parameter, SearchSpace, SpaceError


@dataclass(frozen=True, eq=False)
class Directions:
    """Sums of orthonormal rows, with a factor from -reach to reach for each.

    basis: (n_directions, n_inputs).
    """

    basis: FloatArray
    reach: float

    def __str__(self) -> str:
        return f"sums of {len(self.basis)} directions with factors from {-self.reach:g} to {self.reach:g}"

    def labels(self, _inputs: Sequence[str]) -> tuple[str, ...]:
        """Return `direction 1` and so on, the longest first."""
        return tuple(f"direction {number}" for number in range(1, len(self.basis) + 1))

    def default(self, value: float, /) -> FloatArray:
        """Return the nearest row to `value` for every input."""
        nearest = np.clip(self._factors(np.full((1, self.basis.shape[1]), value)), -self.reach, self.reach)
        return np.asarray(self._row(nearest)[0])

    def contains(self, values: FloatArray) -> bool:
        """Return whether a row is a sum of the directions within reach."""
        factors = self._factors(values[None, :])
        slack = TOLERANCE * max(1.0, self.reach)
        inside = bool((np.abs(factors) <= self.reach + slack).all())
        return inside and bool(np.abs(self._row(factors)[0] - values).max() <= slack * len(values))

    def values(self, points: FloatArray) -> FloatArray:
        """Map points (n, n_directions) to rows of values (n, n_inputs)."""
        return self._row(self.reach * (2.0 * points - 1.0))

    def points(self, values: FloatArray) -> FloatArray:
        """Invert `values`."""
        return np.clip(self._factors(values) / (2.0 * self.reach) + 0.5, 0.0, 1.0)

    def pull_back(self, _points: FloatArray, gradient: FloatArray, /) -> FloatArray:
        """Return the gradient by the points, given that by the values."""
        return 2.0 * self.reach * self._factors(gradient)

    def _row(self, factors: FloatArray) -> FloatArray:
        # One direction after the other: a product of matrices has other last bits on other machines.
        rows = np.zeros((len(factors), self.basis.shape[1]))
        for number, direction in enumerate(self.basis):
            rows += factors[:, number : number + 1] * direction
        return rows

    def _factors(self, values: FloatArray) -> FloatArray:
        return np.stack([(values * direction).sum(axis=1) for direction in self.basis], axis=1)


class Span(SearchSpace):
    """`weight` has a coordinate for each direction of the deltas' span, the same for all tensors.

    Coordinate 0.5 is no step along a direction; a step's length in weight space is in proportion to the direction's
    singular value. Other parameters have one value for the whole model. Requires a method with one weight per
    input, which may be negative; `weight` takes no range.

    Args:
        reach: Largest factor of a direction. At 0.5, averages of two or more checkpoints with equal weights are within
            reach; at 1, every weighted average. It also sets the size of an optimizer's first steps.
        basis: Orthonormal rows, (n_directions, n_inputs); a search computes them from the models. The inputs' own
            coefficients by default.
    """

    def __init__(
        self,
        layout: Layout,
        inputs: Sequence[str],
        parameters: Sequence[Parameter],
        *,
        reach: float = 0.5,
        basis: Sequence[Sequence[float]] | None = None,
        ranges: Mapping[str, Sequence[float]] | None = None,
        freeze: Mapping[str, Any] | None = None,
        tie: Sequence[Sequence[str]] = (),
        start: CoefficientTable | None = None,
    ) -> None:
        if not isinstance(reach, int | float) or not 0.0 < reach < np.inf:
            raise SpaceError(f"reach must be a number above 0; it is {reach!r}.")
        rows = np.eye(len(inputs)) if basis is None else np.array(basis, dtype=np.float64)
        if rows.ndim != 2 or rows.shape[1] != len(inputs) or not 0 < len(rows) <= len(inputs):
            raise SpaceError(f"basis needs shape (n_directions, n_inputs={len(inputs)}); it has {rows.shape}.")
        if np.abs(rows @ rows.T - np.eye(len(rows))).max() > 1e-9:
            raise SpaceError("The rows of basis must be orthonormal.")
        self._directions = Directions(rows, float(reach))
        super().__init__(layout, inputs, parameters, ranges=ranges, freeze=freeze, tie=tie, start=start)

    def _design(self, layout: Layout) -> Design:
        # The base is one of the checkpoints to average, so n inputs have the weight 1 / (n + 1) each.
        average = self._directions.default(1.0 / (len(self.inputs) + 1))
        return Design({"all": layout.names}, scales={"weight": self._directions}, start={"weight": average[None, :]})
