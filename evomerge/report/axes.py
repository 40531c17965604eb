"""Axes for displaying points of the unit cube: few enough to look at, named as in the search space."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evomerge.merge_space import MergeSpace
from search_spaces.base import FloatArray, SearchSpace

#: More axes than this are unreadable, and a dashboard sends all of them repeatedly.
MANY = 40

_NAME = re.compile(r"(?P<parameter>[^\[]+)\[(?P<slot>.*?)(?:, (?P<label>[^,\]]+))?\]")


@dataclass(frozen=True)
class Axis:
    """One displayed number: the mean over some coordinates of a point, scaled to [low, high]."""

    name: str
    coordinates: tuple[int, ...]
    low: float = 0.0
    high: float = 1.0

    def value(self, x: FloatArray) -> float:
        """Return the displayed value of a point, (dimension,)."""
        value = self.low + (self.high - self.low) * float(np.mean(x[list(self.coordinates)]))
        # People read it; and rounding may carry a mean a hair beyond the range that it is declared to have.
        return min(max(float(f"{value:.12g}"), self.low), self.high)


def of_points(dimension: int) -> tuple[Axis, ...]:
    """Return axes without a search space: coordinates by number, grouped into runs if there are many."""
    width = len(str(max(dimension - 1, 0)))
    runs = np.array_split(np.arange(dimension), min(dimension, MANY))
    return tuple(Axis(_run(int(run[0]), int(run[-1]), width), tuple(map(int, run))) for run in runs)


def of_space(space: SearchSpace | MergeSpace) -> tuple[Axis, ...]:
    """Return axes named by a search space; if there are many, the mean of each parameter and input over all groups.

    Coefficients are shown where a coordinate is one but for its range, else the coordinate, from 0 to 1.
    """
    parted = (
        {space.prefix(k): each for k, each in enumerate(space.spaces)} if isinstance(space, MergeSpace) else {"": space}
    )
    ranges = {prefix + name: bounds for prefix, each in parted.items() for name, bounds in _ranges(each).items()}
    parts = [_parts(name) for name in space.names]
    if space.dimension <= MANY:
        return tuple(
            Axis(name, (index,), *ranges.get(parameter, (0.0, 1.0)))
            for index, (name, (parameter, _)) in enumerate(zip(space.names, parts, strict=True))
        )
    together: dict[tuple[str, str], list[int]] = {}
    for index, part in enumerate(parts):
        together.setdefault(part, []).append(index)
    return tuple(
        Axis(_mean(parameter, label), tuple(found), *ranges.get(parameter, (0.0, 1.0)))
        for (parameter, label), found in together.items()
    )


def _ranges(space: SearchSpace) -> dict[str, tuple[float, float]]:
    """Return parameter -> range for the parameters that are linear in their coordinates."""
    at: Sequence[float] = (0.0, 0.25, 1.0)
    tables = [space.decode(np.full(space.dimension, value)).values for value in at]
    ranges = {}
    for parameter, low in tables[0].items():
        quarter, high = tables[1][parameter], tables[2][parameter]
        free = low != high
        if not free.any():
            continue
        a, b = float(low[free][0]), float(high[free][0])
        if all(np.allclose(t[free], a + s * (b - a)) for s, t in zip(at, (low, quarter, high), strict=True)):
            ranges[parameter] = (a, b)
    return ranges


def _parts(name: str) -> tuple[str, str]:
    """Split `weight[block.3, math]` into `weight` and `math`."""
    found = _NAME.fullmatch(name)
    return (found["parameter"], found["label"] or "") if found else (name, "")


def _mean(parameter: str, label: str) -> str:
    return f"{parameter}[mean, {label}]" if label else f"{parameter}[mean]"


def _run(first: int, last: int, width: int) -> str:
    name = f"x{first:0{width}d}"
    return name if first == last else f"{name}-{last:0{width}d}"
