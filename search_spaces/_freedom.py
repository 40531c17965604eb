"""Frozen, tied and bounded coefficients: the options of every space, checked against its groups and parameters."""

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from numbers import Real
from typing import Any

import numpy as np

from search_spaces._table import FloatArray, Parameter, SpaceError, few

#: In `freeze`: the value in `default()`.
DEFAULT = "default"


def with_ranges(parameters: Sequence[Parameter], ranges: Mapping[str, Any] | None) -> tuple[Parameter, ...]:
    """Return the parameters with the bounds of `ranges`: parameter -> (low, high)."""
    bounds = dict(ranges or {})
    for name in bounds:
        _known("parameter", name, [parameter.name for parameter in parameters])
    found = tuple(
        replace(p, low=low, high=high)
        for p in parameters
        for low, high in [_range(p.name, bounds.get(p.name, (p.low, p.high)))]
    )
    if len({parameter.name for parameter in found}) != len(found):
        raise SpaceError(f"Parameters need distinct names; they are {few([p.name for p in found])}.")
    return found


def check_names(names: Iterable[str], parameters: Sequence[Parameter]) -> None:
    """Raise SpaceError for a name of no parameter."""
    for name in names:
        _known("parameter", name, [parameter.name for parameter in parameters])


def with_means(means: Mapping[str, float | None], parameters: Sequence[Parameter]) -> dict[str, float]:
    """Return parameter -> mean, with defaults in place of None, of those with more than one value.

    Raises SpaceError for a mean outside its range.
    """
    known = {parameter.name: parameter for parameter in parameters}
    found: dict[str, float] = {}
    for name, mean in means.items():
        _known("parameter", name, list(known))
        low, high = known[name].low, known[name].high
        if low == high:  # `scale` of task arithmetic, where one mean is given for all parameters
            continue
        found[name] = min(max(known[name].default, low), high) if mean is None else mean
        if not low <= found[name] <= high:
            raise SpaceError(f"The mean of {name!r} must lie in its range, [{low}, {high}]; it is {mean}.")
    return found


def frozen(
    freeze: Mapping[str, Any] | None, groups: Sequence[str], parameters: Sequence[Parameter], n_inputs: int
) -> dict[str, dict[str, FloatArray | None]]:
    """Return parameter -> group -> the frozen row, or None for the default; later patterns override earlier ones."""
    if not isinstance(freeze, Mapping | None):
        raise SpaceError(f"freeze needs group pattern -> {{parameter: value}} or {DEFAULT!r}; it is {freeze!r}.")
    rows: dict[str, dict[str, FloatArray | None]] = {parameter.name: {} for parameter in parameters}
    width = {parameter.name: n_inputs if parameter.per_input else 1 for parameter in parameters}
    for pattern, wanted in (freeze or {}).items():
        members = matching(pattern, groups)
        if wanted == DEFAULT:
            wanted = dict.fromkeys(rows, DEFAULT)
        if not isinstance(wanted, Mapping):
            raise SpaceError(
                f"freeze of {pattern!r} needs {DEFAULT!r} or parameter -> value; it is {wanted!r}, "
                f"and the parameters are {few(list(rows))}."
            )
        for name, value in wanted.items():
            _known("parameter", name, list(rows))
            row = None if value == DEFAULT else _row(f"freeze of {name!r} in {pattern!r}", value, width[name])
            rows[name].update(dict.fromkeys(members, row))
    return rows


def tied(tie: Sequence[Sequence[str]], groups: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return label -> the groups that share their coefficients."""
    if isinstance(tie, str) or any(isinstance(patterns, str) for patterns in tie):
        raise SpaceError(f"tie needs a list of lists of group patterns; it is {tie!r}. Did you mean {[tie]!r}?")
    found: dict[str, tuple[str, ...]] = {}
    taken: dict[str, str] = {}
    for patterns in tie:
        if not patterns:
            raise SpaceError(f"tie needs group patterns in every list; it is {tie!r}.")
        label = "+".join(patterns)
        matched = [group for pattern in patterns for group in matching(pattern, groups)]
        members = tuple(group for group in groups if group in matched)
        for group in members:
            if group in taken:
                raise SpaceError(f"Group {group!r} is tied twice: in {taken[group]!r} and in {label!r}.")
            taken[group] = label
        found[label] = members
    return found


def matching(pattern: str, groups: Sequence[str]) -> tuple[str, ...]:
    """Return the groups that match a shell pattern: `block.3` is one group, `block.3*` also matches `block.35`."""
    members = tuple(group for group in groups if fnmatchcase(group, str(pattern)))
    if not members:
        _known("group", pattern, groups)
    return members


def _known(what: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        near = difflib.get_close_matches(str(name), known, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise SpaceError(f"No {what} {name!r}; there are {few(known)}.{hint}")


def _range(name: str, bounds: Any) -> tuple[float, float]:
    if isinstance(bounds, str) or not isinstance(bounds, Sequence) or len(bounds) != 2:
        raise SpaceError(f"Range of {name!r} needs [low, high]; it is {bounds!r}.")
    low, high = (_number(f"range of {name!r}", bound) for bound in bounds)
    if low > high:
        raise SpaceError(f"Range of {name!r} needs low <= high; it is [{low}, {high}].")
    return low, high


def _row(where: str, value: Any, width: int) -> FloatArray:
    if isinstance(value, Sequence) and not isinstance(value, str):
        if len(value) != width:
            raise SpaceError(f"{where} needs one value or {width}; it has {len(value)}: {value!r}.")
        return np.array([_number(where, one) for one in value])
    return np.full(width, _number(where, value))


def _number(where: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise SpaceError(f"{where} needs a finite number; it is {value!r}.")
    return float(value)
