"""Parameter and CoefficientTable: the coefficients of a merge, per group of tensors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


class SpaceError(ValueError):
    """An invalid search space, or a point or table outside of it."""

    exit_code = 2  # of a command that ends with this error


@dataclass(frozen=True)
class Parameter:
    """A parameter of a merge method: default and search bounds; one value per input model, or one shared by all."""

    name: str
    default: float
    low: float
    high: float
    per_input: bool


@dataclass(frozen=True, eq=False, repr=False)
class CoefficientTable:
    """Coefficients of a merge, per group of tensors.

    Args:
        groups: Group name -> names of its tensors; every tensor is in exactly one group.
        values: Parameter name -> float64 array (n_groups, n_inputs), or (n_groups, 1) for a shared parameter.

    Raises:
        SpaceError: A tensor is in two groups, a shape is wrong, or a value is not finite.
    """

    groups: Mapping[str, tuple[str, ...]]
    values: Mapping[str, FloatArray]
    _group_of: Mapping[str, int] = field(init=False)

    def __post_init__(self) -> None:
        group_of: dict[str, int] = {}
        for index, (group, members) in enumerate(self.groups.items()):
            for name in members:
                if name in group_of:
                    first = list(self.groups)[group_of[name]]
                    raise SpaceError(f"Tensor {name!r} is in two coefficient groups: {first!r} and {group!r}.")
                group_of[name] = index
        frozen = {name: self._frozen(name, value) for name, value in self.values.items()}
        object.__setattr__(self, "groups", MappingProxyType({k: tuple(v) for k, v in self.groups.items()}))
        object.__setattr__(self, "values", MappingProxyType(frozen))
        object.__setattr__(self, "_group_of", MappingProxyType(group_of))

    def __repr__(self) -> str:
        shapes = {name: array.shape for name, array in self.values.items()}
        return f"CoefficientTable({len(self.groups)} groups, values of shapes {shapes})"

    def _frozen(self, name: str, value: FloatArray) -> FloatArray:
        array = np.array(value, dtype=np.float64)
        if array.ndim != 2 or len(array) != len(self.groups) or not array.shape[1]:
            raise SpaceError(
                f"Coefficients {name!r} need shape (n_groups={len(self.groups)}, n_inputs or 1); "
                f"they have {array.shape}."
            )
        if not np.isfinite(array).all():
            raise SpaceError(f"Coefficients {name!r} must be finite; they are {array.tolist()}.")
        array.flags.writeable = False
        return array

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, CoefficientTable):
            return NotImplemented
        return (
            list(self.groups.items()) == list(other.groups.items())
            and self.values.keys() == other.values.keys()
            and all(np.array_equal(self.values[name], other.values[name]) for name in self.values)
        )

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[Any, ...]:
        return CoefficientTable, (dict(self.groups), dict(self.values))

    def at(self, tensor: str) -> dict[str, FloatArray]:
        """Return the coefficients of a tensor: parameter -> (n_inputs,) or (1,). Raises KeyError if unknown."""
        row = self._group_of[tensor]
        return {name: array[row] for name, array in self.values.items()}

    def bind(self, tensors: Sequence[str]) -> "CoefficientTable":
        """Resolve group patterns such as `*` to tensor names, with the same coefficients.

        A tensor belongs to the first group that lists its name, else to the first with a matching pattern.
        Raises SpaceError for a tensor without a group and for a name without a tensor.
        """
        known = set(tensors)
        exact = {name: group for group, members in self.groups.items() for name in members}
        patterns = [(group, m) for group, members in self.groups.items() for m in members if m not in known]
        members: dict[str, list[str]] = {group: [] for group in self.groups}
        for name in tensors:
            group = exact.get(name)
            if group is None:
                group = next((g for g, pattern in patterns if fnmatchcase(name, pattern)), None)
            if group is None:
                raise SpaceError(f"No coefficient group matches tensor {name!r}; the groups are {few(self.groups)}.")
            members[group].append(name)
        for group, pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in tensors):
                raise SpaceError(f"Coefficient group {group!r} names {pattern!r}, which no tensor matches.")
        return CoefficientTable({g: tuple(m) for g, m in members.items()}, self.values)

    def regroup(self, groups: Mapping[str, Sequence[str]], *, average: bool = False) -> "CoefficientTable":
        """Express the same coefficients in other groups of the same tensors.

        Where the tensors of a new group disagree, use their mean with `average`, else raise SpaceError.
        Raises SpaceError for a tensor that is not in this table, and for a group without tensors.
        """
        rows = []
        for group, members in groups.items():
            stranger = next((name for name in members if name not in self._group_of), None)
            if stranger is not None or not members:
                raise SpaceError(
                    f"Group {group!r} needs tensors of the table; it has {few(members)}, "
                    f"of which {stranger!r} is not in the table."
                )
            # One weight per old group: equal values stay equal bit by bit.
            rows.append(np.unique([self._group_of[name] for name in members], return_counts=True))
        values = {
            name: np.array([_joined(name, group, array, row, average) for group, row in zip(groups, rows, strict=True)])
            for name, array in self.values.items()
        }
        return CoefficientTable({group: tuple(members) for group, members in groups.items()}, values)


def _joined(
    name: str, group: str, array: FloatArray, row: tuple[NDArray[Any], NDArray[Any]], average: bool
) -> FloatArray:
    """Combine some rows of `array` into one: their common value, else the mean weighted by tensors."""
    index, counts = row
    if (array[index] == array[index[0]]).all():
        return np.asarray(array[index[0]], dtype=np.float64)
    if not average:
        raise SpaceError(f"The tensors of group {group!r} have different values of {name!r}: {array[index].tolist()}.")
    return np.asarray(counts @ array[index] / counts.sum(), dtype=np.float64)


def few(names: Sequence[str] | Mapping[str, Any], most: int = 12) -> str:
    """Format the first of many names for a message."""
    shown = list(names)[:most]
    more = len(names) - len(shown)
    return ", ".join(map(repr, shown)) + (f" and {more} more" if more else "")
