"""Coefficients that vary with depth: a few control points per component, linear interpolation between them.

Gradients over layers in mergekit's configurations are of this form: https://github.com/arcee-ai/mergekit
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from search_spaces._groups import by_component
from search_spaces.base import Blend, CoefficientTable, Design, Layout, Parameter, SearchSpace, SpaceError


class Smooth(SearchSpace):
    """Groups as in `blockwise`; slots `attention.point.0`, ..., and one slot per group outside blocks.

    The control points of a component are evenly spaced along the blocks in which it is searched (without frozen and
    tied groups), the first and the last at the ends; there are at most as many points as such blocks. The blocks of an
    encoder and a decoder form one sequence of depths.

    Other options are as in every space.

    Args:
        points: Control points per component, at least 1; a start that does not lie on the lines is approximated.
    """

    def __init__(
        self,
        layout: Layout,
        inputs: Sequence[str],
        parameters: Sequence[Parameter],
        *,
        points: int = 4,
        ranges: Mapping[str, Sequence[float]] | None = None,
        freeze: Mapping[str, Any] | None = None,
        tie: Sequence[Sequence[str]] = (),
        start: CoefficientTable | None = None,
    ) -> None:
        if isinstance(points, bool) or not isinstance(points, int) or points < 1:
            raise SpaceError(f"points needs a whole number of at least 1; it is {points!r}.")
        self._points = points
        super().__init__(layout, inputs, parameters, ranges=ranges, freeze=freeze, tie=tie, start=start)

    def _design(self, layout: Layout) -> Design:
        groups = by_component(layout)
        place = dict(zip(layout.names, zip(layout.blocks, layout.components, strict=True), strict=True))
        curves = {
            group: f"{component}.point"
            for group, (block, component) in ((group, place[members[0]]) for group, members in groups.items())
            if block is not None
        }
        return Design(groups, blend=lambda searched: _polylines(searched, curves, self._points))


def _polylines(searched: Sequence[str], curves: Mapping[str, str], points: int) -> Blend:
    """Interpolate along the groups of each curve, `searched` ordered by depth; other groups have a slot each."""
    rows_of: dict[str, list[int]] = {}
    for row, group in enumerate(searched):
        rows_of.setdefault(curves.get(group, group), []).append(row)
    slots: list[str] = []
    lower = np.zeros(len(searched), dtype=np.int64)
    upper = np.zeros(len(searched), dtype=np.int64)
    fraction = np.zeros(len(searched))
    for curve, rows in rows_of.items():
        n_points = min(points, len(rows))
        at = np.arange(len(rows)) * (n_points - 1) / max(len(rows) - 1, 1)  # 0 ... n_points - 1
        below = at.astype(np.int64)
        lower[rows] = len(slots) + below
        upper[rows] = len(slots) + np.minimum(below + 1, n_points - 1)
        fraction[rows] = at - below
        is_line = searched[rows[0]] in curves
        slots += [f"{curve}.{n}" for n in range(n_points)] if is_line else [curve]
    return Blend(tuple(slots), lower, upper, fraction)
