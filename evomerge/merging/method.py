"""@merge_method: a merge method is a function on tiles of tensors; its signature declares its parameters.

    @merge_method(operates_on="deltas", reference="https://arxiv.org/abs/2212.04089")
    def task_arithmetic(deltas, *, weight: Annotated[PerInput, Bounds(1.0, -1.0, 1.5)]) -> Tensor: ...

A keyword annotated with `Bounds` is a parameter: spaces search it, and tables have a value per group of tensors.
A keyword with a plain default is an option: fixed for the whole merge. Both may be declared by `prepare` instead.
"""

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from evaluators._nearest import did_you_mean
from evomerge.errors import EvomergeError
from evomerge.merging.fused.masks import Sparse as Sparse
from evomerge.merging.gradient_rules import Affine as Affine
from evomerge.merging.gradient_rules import Combination as Combination
from evomerge.merging.gradient_rules import Contraction as Contraction
from evomerge.merging.gradient_rules import GradientRule
from evomerge.merging.gradient_rules import NoGradient as NoGradient
from evomerge.merging.signature import SHARE as SHARE
from evomerge.merging.signature import Bounds as Bounds
from evomerge.merging.signature import Declared, describe, fits
from evomerge.merging.signature import PerInput as PerInput
from evomerge.merging.signature import Shared as Shared
from evomerge.merging.tiles import BASE as BASE
from search_spaces.base import FloatArray, Parameter


class MethodError(EvomergeError):
    """Parameters, options or inputs that a merge method does not support.

    place: location of the error in a recipe: ("coefficients", parameter, group, input), or a prefix of it.
    """

    def __init__(self, message: str, place: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.place = place


@dataclass(frozen=True)
class CopyOf:
    """The result of `prepare` if the merged tensor equals one model's: an input's index, or BASE."""

    model: int


@dataclass(frozen=True)
class SumOf:
    """The result of `prepare` if the merged tensor is a sum of models times coefficients, in the order of the inputs.

    It is then written, and differentiated, in one compiled pass over the models. Kernel and pass agree bit for bit:
    every product and every sum is rounded to float32.

    Attributes:
        coefficients: One per model.
        of: "operands": what the kernel operates on, weights, or deltas, to which the base is added. "deltas": these
            also if it operates on weights. "base and weights": with the base's coefficient first.
    """

    coefficients: tuple[float, ...]
    of: Literal["operands", "deltas", "base and weights"] = "operands"

    def __iter__(self) -> Iterator[float]:
        """Iterate over the coefficients."""
        return iter(self.coefficients)


_UNDECLARED = "does not declare how its result is differentiated (`gradient` of @merge_method)"

OperatesOn = Literal["deltas", "weights"]
Prepare = Callable[..., Any]
Kernel = Callable[..., Tensor]
Survey = Callable[..., Any]
Fused = Callable[..., Sparse]


@dataclass(frozen=True)
class MergeMethod:
    """A merge method: its functions, and the declarations in their signatures.

    Attributes:
        kernel: kernel(models, *, ...) -> Tensor. `models` is a tile of every input (float32, flat, may be
            overwritten): `deltas` to the base, to which the result is added, or `weights`. Element-wise: an element of
            the result depends only on that element and on `prepared`. Besides its parameters and options a kernel may
            request `base` (the base's tile, read-only), `prepared` and `tile`.
        prepare: prepare(source, *, ...) -> prepared: data that depends on the whole tensor (thresholds, angles), or
            CopyOf.
        survey: survey(sources, *, ...) -> surveyed: data that depends on the whole model, computed before any tensor is
            merged; `sources` yields one TensorSource per merged tensor each time it is iterated over. Its parameters
            must be equal for all tensors. `prepare` and kernel may request `surveyed`. If it has a `state` (plain
            data from which a later merge continues), an export records it.
        whole: The kernel gets whole tensors in their shape instead of tiles, read on access (`Models`), runs in one
            thread, and may request `source` (its cache and statistics).
        allowed: Parameter -> smallest and largest valid value.
        linear_in: Parameters in which the merged delta is linear while the others are fixed.
        gradient: Rule by which the result is differentiated by its parameters.
        fused: fused(source, *, ...) -> Sparse: the merged tensor as a sum or an election of masked deltas, which one
            compiled pass writes on the CPU with the bits of the kernel; with the keywords of a kernel.
        needs: Kinds of statistics required of every input; "a|b" requires one of the two.
        random: Whether the result depends on the seed.
    """

    name: str
    module: str
    operates_on: OperatesOn
    reference: str
    parameters: tuple[Parameter, ...]
    allowed: Mapping[str, tuple[float, float]]
    options: Mapping[str, Any]
    min_inputs: int
    max_inputs: int | None
    random: bool
    whole: bool
    linear_in: tuple[str, ...]
    gradient: GradientRule
    needs: tuple[str, ...]
    kernel: Kernel = field(repr=False)
    kernel_takes: frozenset[str] = field(repr=False)
    gradient_takes: frozenset[str] = field(repr=False)
    prepare: Prepare | None = field(repr=False)
    prepare_takes: frozenset[str] = field(repr=False)
    survey: Survey | None = field(repr=False)
    survey_takes: frozenset[str] = field(repr=False)
    fused: Fused | None = field(repr=False)
    fused_takes: frozenset[str] = field(repr=False)
    option_types: Mapping[str, Any] = field(repr=False)

    def check(self, options: Mapping[str, Any], n_inputs: int) -> None:
        """Raise MethodError for an unsupported number of inputs or option."""
        most = math.inf if self.max_inputs is None else self.max_inputs
        if not self.min_inputs <= n_inputs <= most:
            wanted = f"exactly {most}" if most == self.min_inputs else f"at least {self.min_inputs}"
            said = f"{self.name} merges {wanted} model(s) into the base; got {n_inputs}."
            raise MethodError(said, ("inputs",))
        for option, value in options.items():
            self._known("options", option, tuple(self.options))
            wanted_type = self.option_types[option]
            if not fits(value, wanted_type):
                raise MethodError(
                    f"{self.name}: {option} must be {describe(wanted_type)}; it is {value!r}.", ("options", option)
                )

    def why_no_gradient(self, options: Mapping[str, Any]) -> str | None:
        """Return why the result is not differentiated by any parameter with these options; None if it is."""
        reason = self.gradient.unless(**{**self.options, **options})
        return None if reason is None else f"{self.name} {reason}"

    def arguments(
        self, coefficients: Mapping[str, FloatArray], inputs: Sequence[str], group: str = "all"
    ) -> dict[str, Any]:
        """Return keyword arguments from one row of a table, with defaults for missing parameters.

        A single value for a per-input parameter applies to all inputs: `weight: 0.5` in a short recipe.

        Args:
            coefficients: Parameter -> values, (n_inputs,) or (1,).
            inputs: Names of the inputs, for errors.
            group: Name of the group, for errors.

        Returns:
            Parameter -> a float, or a tuple (n_inputs,) for a per-input parameter.

        Raises:
            MethodError: A parameter is unknown, has the wrong number of values, or a value is out of range.
        """
        for name in coefficients:
            self._known("coefficients", name, tuple(parameter.name for parameter in self.parameters))
        arguments: dict[str, Any] = {}
        for parameter in self.parameters:
            size = len(inputs) if parameter.per_input else 1
            given = coefficients.get(parameter.name)
            values = [parameter.default] * size if given is None else [float(value) for value in given]
            if len(values) == 1:
                values *= size
            if len(values) != size:
                raise MethodError(
                    f"{self.name}: {parameter.name} needs {size} value(s) per group; it has {len(values)}.",
                    ("coefficients", parameter.name),
                )
            self._check_allowed(parameter, values, inputs, group)
            arguments[parameter.name] = tuple(values) if parameter.per_input else values[0]
        return arguments

    def _check_allowed(self, parameter: Parameter, values: Sequence[float], inputs: Sequence[str], group: str) -> None:
        low, high = self.allowed.get(parameter.name, (-math.inf, math.inf))
        for value, name in zip(values, inputs, strict=False):
            if not low <= value <= high:
                whose = f" of {name!r}" if parameter.per_input else ""
                where = "" if group == "all" else f" in group {group!r}"
                raise MethodError(
                    f"{self.name}: {parameter.name}{whose}{where} must lie between {low:g} and {high:g}; "
                    f"it is {value}.",
                    ("coefficients", parameter.name, group, name),
                )

    def _known(self, section: str, name: str, known: tuple[str, ...]) -> None:
        if section == "options" and any(name == parameter.name for parameter in self.parameters):
            raise MethodError(
                f"{name} is a parameter of {self.name}, not an option. A recipe gives it under `coefficients`; a "
                f"search file fixes it with `space: {{kind: auto, ranges: {{{name}: [VALUE, VALUE]}}}}`.",
                (section, name),
            )
        if name not in known:
            what = {"options": "option", "coefficients": "parameter"}[section]
            there_are = f"It has {', '.join(known)}" if known else "It has none"
            raise MethodError(
                f"{self.name} has no {what} {name!r}.{did_you_mean(name, known)} {there_are}.", (section, name)
            )


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
    gradient: GradientRule | None = None,
    fused: Fused | None = None,
    needs: tuple[str, ...] = (),
    random: bool = False,
) -> Callable[[Kernel], MergeMethod]:
    """Turn a kernel into a merge method, reading its parameters and options from the signatures.

    Args:
        operates_on: "deltas" to the base or "weights"; also the name of the kernel's first argument.
        reference: URL of the paper or source.
        prepare: Computes data per whole tensor, see `MergeMethod`.
        survey: Computes data for the whole model, see `MergeMethod`.
        whole: Whether the kernel gets whole tensors instead of tiles.
        min_inputs: Minimum number of inputs.
        max_inputs: Maximum number of inputs; None for no limit.
        linear_in: Parameters in which the merged delta is linear.
        gradient: How the result is differentiated by its parameters; by default by those of `linear_in`, `Affine`.
        fused: Describes the merged tensor to a compiled pass, see `MergeMethod`.
        needs: Kinds of statistics required of every input.
        random: Whether the result depends on the seed.

    Returns:
        A decorator from kernels to merge methods.

    Raises:
        TypeError: The signatures do not declare a valid method.

    Example:
        >>> import torch
        >>> from typing import Annotated
        >>> @merge_method(operates_on="deltas", reference="https://arxiv.org/abs/2212.04089")
        ... def scaled_sum(deltas, *, scale: Annotated[Shared, Bounds(1.0, 0.0, 2.0)]) -> Tensor:
        ...     return scale * sum(deltas)
        >>> scaled_sum.parameters
        (Parameter(name='scale', default=1.0, low=0.0, high=2.0, per_input=False),)
        >>> scaled_sum.kernel([torch.ones(2), torch.ones(2)], scale=0.5).tolist()
        [1.0, 1.0]
    """

    def decorate(kernel: Kernel) -> MergeMethod:
        first = next(iter(inspect.signature(kernel).parameters), None)
        if first != operates_on:
            raise TypeError(f"{kernel.__name__} operates on {operates_on}: rename its first argument {first!r}.")
        declared = Declared()
        rule = gradient or (Affine(linear_in) if linear_in else NoGradient(_UNDECLARED))
        takes = [declared.read(function) for function in (kernel, prepare, survey, rule.function, fused)]
        for named, names in (("linear_in", linear_in), ("gradient", rule.parameters)):
            stranger = next((name for name in names if name not in declared.parameters), None)
            if stranger is not None:
                raise TypeError(f"{kernel.__name__} has {named} {stranger!r}, which is not one of its parameters.")
        return MergeMethod(
            name=kernel.__name__,
            module=kernel.__module__,
            operates_on=operates_on,
            reference=reference,
            parameters=tuple(declared.parameters.values()),
            allowed=declared.allowed,
            options=declared.options,
            min_inputs=min_inputs,
            max_inputs=max_inputs,
            random=random,
            whole=whole,
            linear_in=linear_in,
            gradient=rule,
            needs=needs,
            kernel=kernel,
            kernel_takes=takes[0],
            gradient_takes=takes[3],
            prepare=prepare,
            prepare_takes=takes[1],
            survey=survey,
            survey_takes=takes[2],
            fused=fused,
            fused_takes=takes[4],
            option_types=declared.types,
        )

    return decorate
