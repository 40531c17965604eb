"""@merge_method: a merge method is one function on tiles of tensors; its signature declares its parameters.

    @merge_method(operates_on="deltas", reference="https://arxiv.org/abs/2212.04089")
    def task_arithmetic(deltas, *, weight: Annotated[PerInput, Bounds(1.0, -1.0, 1.5)]) -> Tensor: ...

A keyword annotated with `Bounds` is a parameter: a space searches it, a table has it per group of tensors.
A keyword with a plain default is an option: fixed for the whole merge. Both may stand in `prepare` instead.
"""

import difflib
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from torch import Tensor

from evomerge.merging.tiles import BASE as BASE
from search_spaces.base import FloatArray, Parameter


class MethodError(ValueError):
    """Parameters, options or inputs that a merge method does not take."""


@dataclass(frozen=True)
class Bounds:
    """Default and search bounds of a parameter. low == high: not searched unless a range is given for it."""

    default: float
    low: float
    high: float


#: A parameter with one value per input model: the function gets a float per input.
PerInput = Sequence[float]
#: A parameter with one value for all inputs: the function gets a float.
Shared = float


@dataclass(frozen=True)
class CopyOf:
    """What `prepare` returns when the result is exactly one model's tensor: an input's index, or BASE."""

    model: int


OperatesOn = Literal["deltas", "weights"]
Prepare = Callable[..., Any]
Kernel = Callable[..., Tensor]
Survey = Callable[..., Any]
_GIVEN = ("base", "prepared", "tile", "surveyed", "source")


@dataclass(frozen=True)
class MergeMethod:
    """A merge method: its functions, and what their signatures say of it.

    kernel(models, *, ...) -> Tensor: `models` are a tile of every input (float32, flat; they may be
    overwritten): `deltas` to the base, to which the result is added, or `weights`. Element-wise: the result
    at an element depends on that element and on `prepared` only. Besides its parameters and options a kernel
    may ask for `base` (the base's tile, to be read only), `prepared` and `tile`.
    prepare(source, *, ...) -> prepared: what must be known of the whole tensor (thresholds, angles), or
    CopyOf.
    survey(sources, *, ...) -> surveyed: what must be known of the whole model before any tensor is merged;
    `sources` gives one Source per merged tensor each time it is iterated over. A parameter that it takes has
    to be the same for all tensors. `prepare` and kernel may ask for `surveyed`. If that has a `state` (plain
    data: what a later merge needs to go on), an export records it.
    whole: the kernel gets whole tensors in their shape instead of tiles, reads them only when it takes them
    (`Models`), runs in one thread, and may ask for `source` (its cache, statistics from data).
    linear_in: parameters in which the merged delta is linear while all others stay.
    needs: kinds of statistics from data that every input must bring; "a|b" is one of two.
    random: whether the result depends on the seed.
    """

    name: str
    module: str
    operates_on: OperatesOn
    reference: str
    parameters: tuple[Parameter, ...]
    options: Mapping[str, Any]
    min_inputs: int
    max_inputs: int | None
    random: bool
    whole: bool
    linear_in: tuple[str, ...]
    needs: tuple[str, ...]
    kernel: Kernel = field(repr=False)
    kernel_takes: frozenset[str] = field(repr=False)
    prepare: Prepare | None = field(repr=False)
    prepare_takes: frozenset[str] = field(repr=False)
    survey: Survey | None = field(repr=False)
    survey_takes: frozenset[str] = field(repr=False)
    option_types: Mapping[str, Any] = field(repr=False)

    def check(self, options: Mapping[str, Any], n_inputs: int) -> None:
        """Raise MethodError for a number of inputs or an option that the method does not take."""
        most = math.inf if self.max_inputs is None else self.max_inputs
        if not self.min_inputs <= n_inputs <= most:
            wanted = f"exactly {most}" if most == self.min_inputs else f"at least {self.min_inputs}"
            raise MethodError(f"{self.name} merges {wanted} model(s) into the base; it was given {n_inputs}.")
        for option, value in options.items():
            self._known("option", option, tuple(self.options))
            wanted_type = self.option_types[option]
            if not _fits(value, wanted_type):
                raise MethodError(f"{self.name}: {option} must be {_describe(wanted_type)}; it is {value!r}.")

    def arguments(self, coefficients: Mapping[str, FloatArray], n_inputs: int) -> dict[str, Any]:
        """Keyword arguments from one row of a table, (n_inputs,) or (1,) each; defaults for what it lacks.

        One value for a parameter with one per input counts for all of them: `weight: 0.5` in a short recipe.
        Raises MethodError for a parameter that the method does not have, or with another number of values.
        """
        for name in coefficients:
            self._known("parameter", name, tuple(parameter.name for parameter in self.parameters))
        arguments: dict[str, Any] = {}
        for parameter in self.parameters:
            size = n_inputs if parameter.per_input else 1
            given = coefficients.get(parameter.name)
            values = [parameter.default] * size if given is None else [float(value) for value in given]
            if len(values) == 1:
                values *= size
            if len(values) != size:
                raise MethodError(
                    f"{self.name}: {parameter.name} needs {size} value(s) per group; it has {len(values)}."
                )
            arguments[parameter.name] = tuple(values) if parameter.per_input else values[0]
        return arguments

    def _known(self, what: str, name: str, known: tuple[str, ...]) -> None:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            there_are = f"it has {', '.join(known)}" if known else "it has none"
            raise MethodError(f"{self.name} has no {what} {name!r}; {there_are}.{hint}")


def merge_method(
    *,
    operates_on: OperatesOn,
    reference: str,
    prepare: Prepare | None = None,
    survey: Survey | None = None,
    whole: bool = False,
    min_inputs: int = 1,
    max_inputs: int | None = None,
    linear_in: tuple[str, ...] = (),
    needs: tuple[str, ...] = (),
    random: bool = False,
) -> Callable[[Kernel], MergeMethod]:
    """Make a merge method of a kernel. Raises TypeError for a signature that cannot be one."""

    def decorate(kernel: Kernel) -> MergeMethod:
        first = next(iter(inspect.signature(kernel).parameters), None)
        if first != operates_on:
            raise TypeError(f"{kernel.__name__} operates on {operates_on}: name its first argument so, not {first!r}.")
        parameters: dict[str, Parameter] = {}
        options: dict[str, Any] = {}
        types: dict[str, Any] = {}
        takes = [
            frozenset() if function is None else _declarations(function, parameters, options, types)
            for function in (kernel, prepare, survey)
        ]
        stranger = next((name for name in linear_in if name not in parameters), None)
        if stranger is not None:
            raise TypeError(f"{kernel.__name__} is said to be linear in {stranger!r}, which is no parameter of it.")
        return MergeMethod(
            name=kernel.__name__,
            module=kernel.__module__,
            operates_on=operates_on,
            reference=reference,
            parameters=tuple(parameters.values()),
            options=options,
            min_inputs=min_inputs,
            max_inputs=max_inputs,
            random=random,
            whole=whole,
            linear_in=linear_in,
            needs=needs,
            kernel=kernel,
            kernel_takes=takes[0],
            prepare=prepare,
            prepare_takes=takes[1],
            survey=survey,
            survey_takes=takes[2],
            option_types=types,
        )

    return decorate


def _declarations(
    function: Callable[..., Any],
    parameters: dict[str, Parameter],
    options: dict[str, Any],
    types: dict[str, Any],
) -> frozenset[str]:
    hints = get_type_hints(function, include_extras=True)
    keywords = [p for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
    for keyword in keywords:
        name, annotation = keyword.name, hints.get(keyword.name)
        if name in _GIVEN:
            continue
        if get_origin(annotation) is Annotated:
            declared: Any = _parameter(name, annotation)
            known: dict[str, Any] = parameters
        elif keyword.default is not keyword.empty and _fits(keyword.default, annotation):
            declared, known = keyword.default, options
            types[name] = annotation
        else:
            raise TypeError(
                f"{function.__name__}: {name} is neither a parameter (Annotated with Bounds) nor an option "
                f"(a default that fits its annotation)."
            )
        if known.setdefault(name, declared) != declared:
            raise TypeError(f"{function.__name__}: {name} is declared twice, and differently.")
    return frozenset(keyword.name for keyword in keywords)


def _parameter(name: str, annotation: Any) -> Parameter:
    kind, bounds = get_args(annotation)
    if not isinstance(bounds, Bounds) or kind not in (PerInput, Shared):
        raise TypeError(f"{name} must be Annotated[PerInput or Shared, Bounds(...)]; it is {annotation}.")
    return Parameter(name, bounds.default, bounds.low, bounds.high, per_input=kind == PerInput)


def _fits(value: Any, wanted: Any) -> bool:
    if get_origin(wanted) is Literal:
        return any(type(value) is type(choice) and value == choice for choice in get_args(wanted))
    if wanted is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return type(value) is wanted


def _describe(wanted: Any) -> str:
    if get_origin(wanted) is Literal:
        return "one of " + ", ".join(repr(choice) for choice in get_args(wanted))
    return {bool: "true or false", float: "a finite number", int: "a whole number", str: "a text"}[wanted]
