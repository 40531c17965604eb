"""The record of what the coordinates of a search are: names, ranges, and which belong to which merge method."""

import math
from collections.abc import Mapping, Sequence

from evomerge.merge_space import MergeSpace, picked
from evomerge.study import Study
from evomerge.trial import FloatArray
from search_spaces.base import SearchSpace

#: Name of the event that says what the coordinates are.
EVENT = "coordinates"


def record_coordinates(
    study: Study,
    space: SearchSpace | MergeSpace,
    allowed: Mapping[str, tuple[float, float]],
    basis: Sequence[Sequence[float]] | None = None,
) -> None:
    """Write down, once, the names of the coordinates, the ranges of their parameters and the coordinates by method.

    allowed: parameter -> the least and the largest value that the method takes. basis: directions of the space `span`,
    which are computed once, since another machine may find other last bits.
    """
    if all(kind != EVENT for kind, _ in study.events):
        ranges = {
            name: {"low": low, "high": high, "limits": [low <= least, high >= most]}
            for name, (low, high) in space.ranges.items()
            for least, most in [allowed.get(name, (-math.inf, math.inf))]
        }
        several = space if isinstance(space, MergeSpace) and space.is_portfolio else None
        methods = {} if several is None else {"methods": dict(zip(several.methods, several.sizes, strict=True))}
        study.event(
            EVENT, names=list(space.names), ranges=ranges, **methods, **({} if basis is None else {"basis": basis})
        )


def basis_of(study: Study) -> Sequence[Sequence[float]] | None:
    """Return the directions of the search, a row of input coefficients each; None in a space without directions."""
    data = next((data for kind, data in study.events if kind == EVENT), {})
    return data.get("basis")


def methods_of(study: Study) -> Mapping[str, int] | None:
    """Return the number of coordinates by method; None where the search has one method."""
    data = next((data for kind, data in study.events if kind == EVENT), {})
    return data.get("methods")


def method_at(methods: Mapping[str, int] | None, x: FloatArray) -> str | None:
    """Return the method that a point, (dimension,), picks; None where the search has one method.

    methods: see `methods_of`.
    """
    return None if methods is None else list(methods)[picked(x, len(methods))]
