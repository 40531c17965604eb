"""Declarations in signatures: parameters (Annotated with Bounds) and options (defaults of plain types)."""

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from search_spaces.base import Parameter

#: Arguments that functions of a merge method may request besides their own.
_GIVEN = ("base", "prepared", "tile", "surveyed", "source")


@dataclass(frozen=True)
class Bounds:
    """Default and search bounds of a parameter. low == high: searched only if a range is given for it.

    allowed: smallest and largest valid value.
    """

    default: float
    low: float
    high: float
    allowed: tuple[float, float] = (-math.inf, math.inf)


#: Valid values of a parameter that is a fraction.
SHARE = (0.0, 1.0)


#: A parameter with one value per input model: the function gets a float per input.
PerInput = Sequence[float]
#: A parameter with one value for all inputs: the function gets a float.
Shared = float


@dataclass(frozen=True)
class Declared:
    """The joint declarations of a merge method's functions, by name.

    allowed: smallest and largest value of a parameter. types: types of the options.
    """

    parameters: dict[str, Parameter] = field(default_factory=dict)
    allowed: dict[str, tuple[float, float]] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    types: dict[str, Any] = field(default_factory=dict)

    def read(self, function: Callable[..., Any] | None) -> frozenset[str]:
        """Add a function's declarations; return all keywords that it takes. Raises TypeError for a bad signature."""
        if function is None:
            return frozenset()
        hints = get_type_hints(function, include_extras=True)
        keywords = [p for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
        for keyword in keywords:
            if keyword.name not in _GIVEN:
                self._add(function.__name__, keyword, hints.get(keyword.name))
        return frozenset(keyword.name for keyword in keywords)

    def _add(self, function: str, keyword: inspect.Parameter, annotation: Any) -> None:
        name = keyword.name
        if get_origin(annotation) is Annotated:
            declared: Any = _parameter(name, annotation)
            known: dict[str, Any] = self.parameters
            self.allowed[name] = get_args(annotation)[1].allowed
        elif keyword.default is not keyword.empty and fits(keyword.default, annotation):
            declared, known = keyword.default, self.options
            self.types[name] = annotation
        else:
            raise TypeError(
                f"{function}: {name} is neither a parameter (Annotated with Bounds) nor an option "
                f"(a default that fits its annotation)."
            )
        if known.setdefault(name, declared) != declared:
            raise TypeError(f"{function}: {name} is declared twice with different values.")


def _parameter(name: str, annotation: Any) -> Parameter:
    kind, bounds = get_args(annotation)
    if not isinstance(bounds, Bounds) or kind not in (PerInput, Shared):
        raise TypeError(f"{name} must be Annotated[PerInput or Shared, Bounds(...)]; it is {annotation}.")
    return Parameter(name, bounds.default, bounds.low, bounds.high, per_input=kind == PerInput)


def fits(value: Any, wanted: Any) -> bool:
    """Return whether a value is of an option's type."""
    if get_origin(wanted) is Literal:
        return any(type(value) is type(choice) and value == choice for choice in get_args(wanted))
    if wanted is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return type(value) is wanted


def describe(wanted: Any) -> str:
    """Describe an option's type in words."""
    if get_origin(wanted) is Literal:
        return "one of " + ", ".join(repr(choice) for choice in get_args(wanted))
    return {bool: "true or false", float: "a finite number", int: "a whole number", str: "text"}[wanted]
