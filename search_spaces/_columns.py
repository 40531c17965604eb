"""One parameter of a space: slots (free values) with coordinates, and the interpolation of groups between slots."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from search_spaces._table import FloatArray, Parameter, SpaceError
from search_spaces._transforms import TOLERANCE, Box, Scale

IntArray = NDArray[np.int64]


class Mixing(Protocol):
    """Maps points of slots to those of the searched groups, each in [0, 1]."""

    @property
    def slots(self) -> tuple[str, ...]: ...
    def __call__(self, points: FloatArray, /) -> FloatArray: ...
    def solve(self, points: FloatArray, /) -> FloatArray: ...
    def pull_back(self, points: FloatArray, gradient: FloatArray, /) -> FloatArray: ...
    def mean_by_slot(self, values: FloatArray, /) -> FloatArray: ...
    def with_ties(self, ties: Mapping[str, int], /) -> "Mixing": ...


@dataclass(frozen=True, eq=False)
class Blend:
    """Interpolates the points of groups between slots: `(1 - fraction) * slots[lower] + fraction * slots[upper]`.

    slots: their names. lower, upper: indices of slots, (n_groups,). fraction: in [0, 1), (n_groups,).
    """

    slots: tuple[str, ...]
    lower: IntArray
    upper: IntArray
    fraction: FloatArray

    def __call__(self, points: FloatArray) -> FloatArray:
        """Map points of slots (n_slots, n) to points of groups (n_groups, n); 0 and 1 are preserved exactly."""
        if not self.mixes:
            return points[self.lower]
        fraction = self.fraction[:, None]
        return (1.0 - fraction) * points[self.lower] + fraction * points[self.upper]

    @cached_property
    def mixes(self) -> bool:
        """Whether a group is between two slots."""
        return bool(self.fraction.any())

    def solve(self, points: FloatArray) -> FloatArray:
        """Return points of slots that give these points of groups: exactly if possible, else by least squares."""
        at_slot = np.flatnonzero(self.fraction == 0.0)
        direct = np.full((len(self.slots), points.shape[1]), np.nan)
        direct[self.lower[at_slot]] = points[at_slot]
        if np.abs(self(direct) - points).max(initial=0.0) <= TOLERANCE:
            return direct
        rows = np.arange(len(points))
        matrix = np.zeros((len(points), len(self.slots)))
        matrix[rows, self.upper] = self.fraction
        matrix[rows, self.lower] = 1.0 - self.fraction
        return np.clip(np.linalg.lstsq(matrix, points, rcond=None)[0], 0.0, 1.0)

    def pull_back(self, _points: FloatArray, gradient: FloatArray, /) -> FloatArray:
        """Return the gradient by the points of slots (n_slots, n), given the one by those of groups (n_groups, n)."""
        fraction = self.fraction[:, None]
        slots = np.zeros((len(self.slots), gradient.shape[1]))
        np.add.at(slots, self.lower, (1.0 - fraction) * gradient)
        np.add.at(slots, self.upper, fraction * gradient)
        return slots

    def mean_by_slot(self, values: FloatArray) -> FloatArray:
        """Return the mean of values of groups (n_groups,) over the groups of each slot, by its part in them."""
        total, weight = np.zeros(len(self.slots)), np.zeros(len(self.slots))
        for index, part in ((self.lower, 1.0 - self.fraction), (self.upper, self.fraction)):
            np.add.at(total, index, part * values)
            np.add.at(weight, index, part)
        return np.asarray(total / weight)

    def with_ties(self, ties: Mapping[str, int]) -> "Blend":
        """Return this blend with one more slot per tie at the end; ties: label -> number of groups sharing it."""
        first = len(self.slots)
        slot = np.repeat(np.arange(first, first + len(ties)), list(ties.values()))
        return Blend(
            (*self.slots, *ties),
            np.concatenate([self.lower, slot]),
            np.concatenate([self.upper, slot]),
            np.concatenate([self.fraction, np.zeros(len(slot))]),
        )


def one_slot_each(groups: Sequence[str]) -> Blend:
    """Give every group a slot of its own."""
    index = np.arange(len(groups))
    return Blend(tuple(groups), index, index, np.zeros(len(groups)))


@dataclass(frozen=True, eq=False)
class Column:
    """The coordinates and values of a parameter.

    origin: (n_groups, width), values of the groups not searched and start of those searched. rows: indices of the
    searched groups, in the order of `blend`.
    """

    parameter: Parameter
    scale: Scale
    blend: Mixing
    rows: IntArray
    origin: FloatArray
    labels: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the coordinates: `weight[block.3, math]`, `t[block.3]`."""
        return tuple(
            f"{self.parameter.name}[{slot}, {label}]" if label else f"{self.parameter.name}[{slot}]"
            for slot in self.blend.slots
            for label in self.labels
        )

    @property
    def dimension(self) -> int:
        """Number of coordinates."""
        return len(self.blend.slots) * len(self.labels)

    @property
    def bounds(self) -> tuple[FloatArray, FloatArray] | None:
        """Ends of each coordinate's value, (dimension,) each; None where values depend on several coordinates."""
        if not (isinstance(self.scale, Box) and isinstance(self.blend, Blend)) or self.blend.mixes:
            return None
        return np.full(self.dimension, self.scale.low), np.full(self.dimension, self.scale.high)

    def decode(self, x: FloatArray) -> FloatArray:
        """Map coordinates (dimension,) to values (n_groups, width)."""
        values = self.origin.copy()
        if len(self.rows):
            slots = x.reshape(len(self.blend.slots), len(self.labels))
            values[self.rows] = self.scale.values(self.blend(slots))
        return values

    def pull_back(self, x: FloatArray, gradient: FloatArray) -> FloatArray:
        """Return the gradient by the coordinates (dimension,), given the one by the values (n_groups, width)."""
        if not self.dimension:
            return np.zeros(0)
        slots = x.reshape(len(self.blend.slots), len(self.labels))
        return self.blend.pull_back(slots, self.scale.pull_back(self.blend(slots), gradient[self.rows])).ravel()

    def nearest(self, values: FloatArray, groups: Sequence[str]) -> FloatArray:
        """Return the coordinates whose values are closest to `values` (n_groups, width).

        Raises SpaceError for a searched group whose values the scale cannot represent.
        """
        for row in self.rows:
            if not self.scale.contains(values[row]):
                raise SpaceError(
                    f"{self.parameter.name!r} of group {groups[row]!r} is {values[row].tolist()}; "
                    f"this space allows {self.scale}. Widen `ranges`, or change the table."
                )
        if not self.dimension:
            return np.zeros(0)
        return self.blend.solve(self.scale.points(values[self.rows])).ravel()


def build_column(
    parameter: Parameter,
    scale: Scale | None,
    blend: Callable[[Sequence[str]], Mixing],
    groups: Sequence[str],
    inputs: tuple[str, ...],
    *,
    fixed: Mapping[str, FloatArray | None],
    ties: Mapping[str, tuple[str, ...]],
    begin: FloatArray | None,
    around: Callable[[FloatArray], Mixing] | None = None,
) -> Column:
    """Build the column of a parameter; one whose range is a single value has no coordinates.

    scale: None for a range of values. fixed: group -> its values, or None for the origin's; these groups are not
    searched.
    ties: label -> groups with shared coordinates. begin: start of the search, (n_groups, width). around: replaces
    `blend`, given the points of the start, (n_searched_groups, width).
    Raises SpaceError for a tie that is only partly searched.
    """
    constant = scale is None and parameter.low == parameter.high
    scale = scale or Box(parameter.low, parameter.high, len(inputs) if parameter.per_input else 1)
    origin = np.tile(scale.default(parameter.default), (len(groups), 1))
    if begin is not None and not constant:
        origin = begin.copy()
    index = {group: row for row, group in enumerate(groups)}
    shared = {} if constant else _searched_ties(parameter.name, ties, fixed)
    for members in shared.values():
        rows = [index[group] for group in members]
        if (origin[rows] != origin[rows[0]]).any():
            origin[rows] = origin[rows].mean(axis=0)
    for group, values in fixed.items():
        if values is not None:
            origin[index[group]] = values
    origin.flags.writeable = False
    together = [group for members in shared.values() for group in members]
    alone = [] if constant else [group for group in groups if group not in fixed and group not in together]
    mixing = blend(alone)
    if around is not None and not constant:
        mixing = around(scale.points(origin[[index[group] for group in alone]]))
    return Column(
        parameter,
        scale,
        mixing.with_ties({label: len(members) for label, members in shared.items()}),
        np.array([index[group] for group in (*alone, *together)], dtype=np.int64),
        origin,
        scale.labels(inputs) if parameter.per_input else ("",),
    )


def _searched_ties(
    name: str, ties: Mapping[str, tuple[str, ...]], fixed: Mapping[str, FloatArray | None]
) -> dict[str, tuple[str, ...]]:
    searched = {}
    for label, members in ties.items():
        free = tuple(group for group in members if group not in fixed)
        if free and len(free) < len(members):
            stuck = next(group for group in members if group in fixed)
            raise SpaceError(
                f"{name!r} of group {stuck!r} is frozen and tied to {free[0]!r}, which is not: freeze both or neither."
            )
        if free:
            searched[label] = free
    return searched
