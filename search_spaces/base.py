"""The search space contract: from a Layout and Parameters to CoefficientTables.

Shapes: n_groups groups of tensors that share coefficients, n_inputs models to merge,
dimension = number of searched coordinates, each in [0, 1].
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate, pairwise
from typing import Any, ClassVar

import numpy as np

from search_spaces._columns import Blend, IntArray, build_column, one_slot_each
from search_spaces._fixed_mean import with_mean
from search_spaces._freedom import check_names, frozen, tied, with_means, with_ranges
from search_spaces._layout import Layout, block_of, in_block, tensor_depths
from search_spaces._path import Path, Step
from search_spaces._random_subspace import random_subspace
from search_spaces._table import CoefficientTable, FloatArray, Parameter, SpaceError, few
from search_spaces._transforms import TOLERANCE, Box, Scale

__all__ = [
    "Blend",
    "CoefficientTable",
    "Design",
    "FloatArray",
    "Layout",
    "Parameter",
    "Path",
    "Scale",
    "SearchSpace",
    "SpaceError",
    "Step",
    "block_of",
    "in_block",
]


@dataclass(frozen=True)
class Design:
    """The decisions of a plug-in.

    Attributes:
        groups: Group name -> its tensors; every tensor of the layout is in exactly one group.
        blend: Maps the searched groups (without frozen and tied ones) to the slots that they share.
        scales: Parameter name -> its scale, where that is not a range of values.
        means: Parameter name -> mean of its values over the groups, None for its default; replaces `blend` for it.
        directions: Parameter name -> number of random directions in which its values move from the start; replaces
            `blend` for it. seed: key of these directions.
        coarse: Larger groups, label -> their tensors, whose coefficients an optimizer may move together at first; None
            where the groups are as large as they should be.
        notes: Sentences about what the groups do not tell apart, shown by `evomerge check`.
        start: Parameter -> values, (n_groups, width), of `default()` where there is no other start, instead of the
            parameter's default.
        settle: Maps the values at a point, parameter -> (n_groups, width), to those that stand for the same candidate,
            where several points are one; in the ranges. Such a space has no derivatives.
        switches: Parameters whose values only stand for on and off, so that the ends of their ranges mean nothing.
    """

    groups: Mapping[str, tuple[str, ...]]
    blend: Callable[[Sequence[str]], Blend] = one_slot_each
    scales: Mapping[str, Scale] = field(default_factory=dict)
    means: Mapping[str, float | None] = field(default_factory=dict)
    directions: Mapping[str, int] = field(default_factory=dict)
    seed: int = 0
    coarse: Mapping[str, tuple[str, ...]] | None = None
    notes: tuple[str, ...] = ()
    start: Mapping[str, FloatArray] = field(default_factory=dict)
    settle: Callable[[Mapping[str, FloatArray]], Mapping[str, FloatArray]] | None = None
    switches: tuple[str, ...] = ()


class SearchSpace(ABC):
    """Maps points of the unit cube to coefficients; `decode` is pure, and `decode(encode(t))` returns t.

    Plug-ins implement `_design`, which defines the groups of tensors and the slots (free values) that determine their
    coefficients; ranges, frozen and tied groups and the start are handled here for all of them. A per-input parameter
    has one coordinate per slot and input, a shared one has one per slot.

    A space whose class sets `arranges_blocks` searches for paths through the blocks of all models instead. Its layout
    lists these blocks in place of tensors, as `NAME.block.N`, and its inputs begin with the base.

    Args:
        layout: Tensors of the model, with their depths and components.
        inputs: Names of the models to merge, (n_inputs,), distinct.
        parameters: Parameters of the merge method.
        ranges: Parameter -> (low, high), instead of the method's search bounds; low == high fixes it.
        freeze: Group pattern -> {parameter: value or list per input}, or "default". Frozen coefficients are not
            searched and may lie outside the ranges.
        tie: Lists of group patterns; the groups of one list share their coefficients.
        start: Table that `default()` encodes, instead of the parameters' defaults. Its groups may differ: a
            group starts at the values of its tensors, or at their mean where they differ.

    Raises:
        SpaceError: A name is unknown, or options contradict each other.

    Example:
        >>> from search_spaces.uniform import Uniform
        >>> layout = Layout.from_names(["model.layers.0.mlp.weight", "lm_head.weight"])
        >>> space = Uniform(layout, ["math", "code"], [Parameter("weight", 1.0, 0.0, 2.0, per_input=True)])
        >>> space.names
        ('weight[all, math]', 'weight[all, code]')
        >>> space.decode(np.array([0.25, 1.0])).values["weight"].tolist()
        [[0.5, 2.0]]
        >>> space.encode(space.decode(space.default())).tolist()
        [0.5, 0.5]
    """

    #: Whether candidates are paths through the blocks of all models, see `path`.
    arranges_blocks: ClassVar[bool] = False

    def __init__(
        self,
        layout: Layout,
        inputs: Sequence[str],
        parameters: Sequence[Parameter],
        *,
        ranges: Mapping[str, Sequence[float]] | None = None,
        freeze: Mapping[str, Any] | None = None,
        tie: Sequence[Sequence[str]] = (),
        start: CoefficientTable | None = None,
    ) -> None:
        if not layout.names or not inputs or len(set(inputs)) != len(inputs):
            raise SpaceError(
                f"A search space needs tensors and distinct inputs; there are {len(layout.names)} tensors "
                f"and the inputs {few(list(inputs))}."
            )
        self.inputs = tuple(inputs)
        design = self._design(layout)
        self.notes = design.notes
        self._tensors = layout.names
        self._coarse = {} if design.coarse is None else {t: label for label, ts in design.coarse.items() for t in ts}
        self._depths = tensor_depths(layout)
        self._groups = {group: tuple(members) for group, members in design.groups.items()}
        self._settle_values, self._switches = design.settle, design.switches
        self._check_design(design, parameters, ranges or {})
        bounded = with_ranges(parameters, ranges)
        means = with_means(design.means, bounded)
        check_names(design.directions, bounded)
        fixed = frozen(freeze, self.groups, bounded, len(inputs))
        ties = tied(tie, self.groups)
        begin = {**design.start, **({} if start is None else self._begin(start, bounded))}
        self._columns = tuple(
            build_column(
                parameter,
                design.scales.get(parameter.name),
                with_mean(parameter, means.get(parameter.name)) or design.blend,
                self.groups,
                self.inputs,
                fixed=fixed[parameter.name],
                ties=ties,
                begin=begin.get(parameter.name),
                around=partial(random_subspace, parameter.name, n_directions=number, seed=design.seed)
                if (number := design.directions.get(parameter.name))
                else None,
            )
            for parameter in bounded
        )
        self._column_ends = tuple(pairwise([0, *accumulate(column.dimension for column in self._columns)]))
        self._own_values = self._values_by_coordinate()
        self._names = tuple(name for column in self._columns for name in column.names)
        self._default = self._nearest({c.parameter.name: c.origin for c in self._columns})

    @abstractmethod
    def _design(self, layout: Layout) -> Design:
        """Return the groups of the space, their slots and the scales of its parameters; may use `self.inputs`."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the searched coordinates, e.g. `weight[block.3.attention, math]`."""
        return self._names

    @property
    def dimension(self) -> int:
        """Number of searched coordinates."""
        return len(self._names)

    @property
    def coarse(self) -> IntArray | None:
        """Number of the larger group of each coordinate, (dimension,); None if the space has no larger groups.

        Coordinates of one number belong to the same parameter and input, and to tensors of the same larger group. Tied
        groups keep a number of their own.
        """
        if not self._coarse:
            return None
        labels = [
            (column.parameter.name, self._coarse[self._groups[slot][0]] if slot in self._groups else slot, label)
            for column in self._columns
            for slot in column.blend.slots
            for label in column.labels
        ]
        number = {label: n for n, label in enumerate(dict.fromkeys(labels))}
        return np.array([number[label] for label in labels], dtype=np.int64)

    @property
    def positions(self) -> tuple[IntArray, FloatArray]:
        """Where each coordinate acts: its series and its depth, (dimension,) each.

        A series holds the coordinates of one parameter and input, and has a number. Depths go from 0, the embedding, to
        1, the head; that of a slot is the mean over its groups and their tensors.
        """
        series: list[int] = []
        depths: list[float] = []
        for column in self._columns:
            by_group = [np.mean([self._depths[t] for t in self._groups[self.groups[row]]]) for row in column.rows]
            by_slot = column.blend.mean_by_slot(np.array(by_group))
            first = max(series, default=-1) + 1
            series += [first + n for _ in by_slot for n in range(len(column.labels))]
            depths += [float(depth) for depth in by_slot for _ in column.labels]
        return np.array(series, dtype=np.int64), np.array(depths)

    @property
    def ranges(self) -> dict[str, tuple[float, float]]:
        """(low, high) of each parameter whose coordinates are positions of its values between two bounds.

        Switches have none.
        """
        linear = (column for column in self._columns if isinstance(column.blend, Blend))
        linear = (column for column in linear if column.parameter.name not in self._switches)
        searched = (column for column in linear if column.dimension and isinstance(column.scale, Box))
        return {column.parameter.name: (column.parameter.low, column.parameter.high) for column in searched}

    @property
    def searched(self) -> dict[str, tuple[str, ...]]:
        """Parameter -> the groups whose values coordinates determine; those of the others are frozen."""
        columns = (column for column in self._columns if column.dimension)
        return {c.parameter.name: tuple(self.groups[row] for row in sorted(c.rows)) for c in columns}

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of the groups of every table of this space, ordered by depth."""
        return tuple(self._groups)

    def decode(self, x: FloatArray) -> CoefficientTable:
        """Return the coefficients at a point.

        Args:
            x: The point, (dimension,), in [0, 1].

        Returns:
            The table, with the groups of this space.

        Raises:
            SpaceError: The point has another shape or lies outside the cube.
        """
        return CoefficientTable(self._groups, self.values(x))

    def values(self, x: FloatArray) -> Mapping[str, FloatArray]:
        """Return the coefficients at a point by parameter, (n_groups, n_inputs) or (n_groups, 1).

        They are those of `decode` without its table, which takes time for each tensor.
        """
        parts = self._parts(x)
        values = {c.parameter.name: c.decode(part) for c, part in zip(self._columns, parts, strict=True)}
        return values if self._settle_values is None else self._settle_values(values)

    def key_values(self, x: FloatArray) -> FloatArray:
        """Return values, (n,), that are equal for points of equal coefficients, and differ where these differ.

        Where every coordinate has a value of its own, they are these: much faster than `values`, for many points.
        """
        if self._own_values is None:
            return np.concatenate([np.zeros(0), *(values.ravel() for _, values in sorted(self.values(x).items()))])
        low, high = self._own_values
        return np.minimum(np.maximum((1.0 - x) * low + x * high, low), high)

    def pull_back(self, x: FloatArray, gradient: Mapping[str, FloatArray]) -> FloatArray:
        """Return the gradient by the coordinates of a point, given the gradient by its coefficients.

        This is the transposed derivative of `decode`: frozen groups are omitted, tied ones summed.

        Args:
            x: The point, (dimension,), in [0, 1].
            gradient: Parameter -> derivative by its values, shaped like them in a table of this space,
                (n_groups, n_inputs) or (n_groups, 1). Missing parameters count as zero.

        Returns:
            The gradient, (dimension,).

        Raises:
            SpaceError: The point is not in the cube, the gradient has an unknown parameter or another shape, or the
                space has no derivatives.
        """
        if self._settle_values is not None:
            raise SpaceError(f"{type(self).__name__} has no derivatives: its candidates change in steps.")
        parts = self._parts(x)
        shapes = {column.parameter.name: column.origin.shape for column in self._columns}
        for name, array in gradient.items():
            if shapes.get(name) != np.shape(array):
                raise SpaceError(
                    f"Expected a gradient with parameters of shapes {shapes}; {name!r} has {np.shape(array)}."
                )
        return np.concatenate(
            [
                np.zeros(0),
                *(
                    column.pull_back(part, np.asarray(gradient[column.parameter.name], dtype=np.float64))
                    if column.parameter.name in gradient
                    else np.zeros(column.dimension)
                    for column, part in zip(self._columns, parts, strict=True)
                ),
            ]
        )

    def encode(self, table: CoefficientTable) -> FloatArray:
        """Return the point that decodes to a table.

        Args:
            table: Coefficients of the same tensors, in any groups.

        Returns:
            The point, (dimension,), in [0, 1].

        Raises:
            SpaceError: The table is not in this space.
        """
        mine = table.bind(self._tensors).regroup(self._groups)
        self._check_parameters(mine, [column.parameter for column in self._columns], complete=True)
        x = self._nearest(mine.values)
        for name, got in self.decode(x).values.items():
            wanted = mine.values[name]
            off = np.abs(got - wanted) > TOLERANCE * max(1.0, float(np.abs(wanted).max()))
            if off.any():
                row = int(np.flatnonzero(off.any(axis=1))[0])
                raise SpaceError(
                    f"The table is not in this space: {name!r} of group {self.groups[row]!r} is "
                    f"{wanted[row].tolist()}, and the closest possible value is {got[row].tolist()}."
                )
        return x

    def default(self) -> FloatArray:
        """Return the point that a search starts from, (dimension,): the start, or the parameters' defaults."""
        return self._default.copy()

    def path(self, table: CoefficientTable) -> Path | None:  # noqa: ARG002 - contract
        """Return the path that a table of this space stands for; None if it stands for a merge.

        Args:
            table: Result of `decode`.
        """
        return None

    def landmarks(self) -> Mapping[str, FloatArray]:
        """Return label -> point, (dimension,), of paths to compare with, which are scored as baselines.

        `blocks:NAME` is the label of a model's own blocks between the embeddings and the head that all paths have.
        """
        return {}

    def _parts(self, x: FloatArray) -> list[FloatArray]:
        """Return the coordinates of each column. Raises SpaceError for a point that is not in the cube."""
        point = np.array(x, dtype=np.float64)
        if point.shape != (self.dimension,):
            raise SpaceError(f"Expected a point of shape ({self.dimension},); got {point.shape}.")
        if not ((point >= 0.0) & (point <= 1.0)).all():
            where = np.flatnonzero(~((point >= 0.0) & (point <= 1.0)))[0]
            raise SpaceError(f"Coordinates must lie in [0, 1]; {self._names[where]!r} is {point[where]}.")
        return [point[begin:end] for begin, end in self._column_ends]

    def _values_by_coordinate(self) -> tuple[FloatArray, FloatArray] | None:
        """Return the bounds of every coordinate's value; None where values are not those of single coordinates."""
        bounds = [column.bounds for column in self._columns if column.dimension]
        if self._settle_values is not None or any(each is None for each in bounds):
            return None
        low, high = (np.concatenate([np.zeros(0), *(each[end] for each in bounds if each)]) for end in (0, 1))
        return low, high

    def _nearest(self, values: Mapping[str, FloatArray]) -> FloatArray:
        parts = [column.nearest(values[column.parameter.name], self.groups) for column in self._columns]
        return np.concatenate([np.zeros(0), *parts])

    def _begin(self, start: CoefficientTable, parameters: Sequence[Parameter]) -> Mapping[str, FloatArray]:
        mine = start.bind(self._tensors).regroup(self._groups, average=True)
        self._check_parameters(mine, parameters, complete=False)
        return mine.values

    def _check_design(self, design: Design, parameters: Sequence[Parameter], ranges: Mapping[str, Any]) -> None:
        members = sorted(name for group in self._groups.values() for name in group)
        if members != sorted(self._tensors) or not all(self._groups.values()):
            raise SpaceError(
                f"{type(self).__name__} must put every tensor of the layout into one group, and none may be empty."
            )
        per_input = [parameter.name for parameter in parameters if parameter.per_input]
        for name, scale in design.scales.items():
            if name not in per_input:
                raise SpaceError(
                    f"{type(self).__name__} needs a parameter {name!r} with one value per input; "
                    f"the method has {few(per_input) or 'none'}. Choose another space or method."
                )
            if name in ranges:
                raise SpaceError(f"{name!r} has {scale} here; remove its range {ranges[name]!r}.")

    def _check_parameters(self, table: CoefficientTable, parameters: Sequence[Parameter], *, complete: bool) -> None:
        known = {p.name: len(self.inputs) if p.per_input else 1 for p in parameters}
        given = {name: array.shape[1] for name, array in table.values.items()}
        expected = {name: width for name, width in known.items() if complete or name in given}
        if given != expected:
            raise SpaceError(
                f"The table has the parameters (and columns) {given}; this space has {known}, "
                f"with a column per input, or one for all of them."
            )
