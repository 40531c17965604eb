"""Slopes: how a loss changes with each merge coefficient, from its gradient by the merged tensors.

Each tensor's gradient is contracted with the derivative of the tensor by its coefficients, tile by tile, in float32
with sums in float64; the method's own rule (`evomerge.merging.gradient_rules`) says how.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evomerge import plugins
from evomerge.merging.fused.tensors import model_dots
from evomerge.merging.method import (
    BASE,
    Combination,
    Contraction,
    CopyOf,
    MergeMethod,
    MethodError,
)
from evomerge.merging.prepared import PreparedMerge
from evomerge.merging.tiles import Models, TensorSource, Tile, dot
from evomerge.recipe import Recipe
from search_spaces.base import FloatArray

#: Step of the differences between coefficients, which are of the order of 1 and computed in float64.
_STEP = 1e-5
#: Differences of second order, in steps: between both sides, else (at an edge) on one side without the point itself.
_STENCILS = (
    {-1: -0.5, 1: 0.5},
    {1: -2.5, 2: 4.0, 3: -1.5},
    {-1: 2.5, -2: -4.0, -3: 1.5},
)
#: At a point that gives a copy of a model, masks are those of a point this far away in every parameter.
_AWAY = 1e-3

Given = Mapping[str, Any]
Found = dict[str, list[float]]


def gradient_parameters(recipe: Recipe) -> tuple[str, ...]:
    """Return the parameters of a recipe's method by which a merge is differentiated; none if it is not."""
    method = _method(recipe)
    return () if method.why_no_gradient(recipe.options) else method.gradient.parameters


def why_no_gradient(recipe: Recipe) -> str | None:
    """Return why the merges of a recipe are not differentiated by any coefficient; None if they are."""
    return _method(recipe).why_no_gradient(recipe.options)


def _method(recipe: Recipe) -> MergeMethod:
    method: MergeMethod = plugins.load("merge method", recipe.method, MergeMethod)
    return method


class Slopes:
    """Derivatives of one merge's tensors by its coefficients, contracted with gradients.

    Made by `MergeEngine.slopes`; valid while the engine exists.
    """

    def __init__(
        self,
        candidate: PreparedMerge,
        source: Callable[[str], TensorSource],
        present: Mapping[str, tuple[int, ...]],
        n_inputs: int,
    ) -> None:
        reason = candidate.method.why_no_gradient(candidate.options)
        if reason is not None:
            raise MethodError(f"The merge has no gradient by its coefficients: {reason}.")
        self._candidate = candidate
        self._source = source
        self._present = present
        self._n_inputs = n_inputs
        method = candidate.method
        self._per_input = {p.name: p.per_input for p in method.parameters}

    @property
    def parameters(self) -> tuple[str, ...]:
        """Return the parameters by which the merge is differentiated."""
        return self._candidate.method.gradient.parameters

    @property
    def widths(self) -> dict[str, int]:
        """Return each of these parameters with its number of values in a group: n_inputs, or 1."""
        return {name: self._n_inputs if self._per_input[name] else 1 for name in self.parameters}

    @property
    def groups(self) -> Mapping[str, tuple[str, ...]]:
        """Return the groups of the merge's coefficients, with the tensors in each."""
        return self._candidate.groups

    def still(self, name: str) -> bool:
        """Return whether no coefficient changes a tensor, because it is the same in all models."""
        return self._candidate.method.operates_on == "deltas" and self._source(name).identical

    def __call__(self, name: str, gradient: Tensor) -> dict[str, FloatArray]:
        """Contract the gradient of a loss by one merged tensor.

        Args:
            name: The tensor's name.
            gradient: The gradient, of the tensor's shape, of any floating dtype and memory layout, on the engine's
                device.

        Returns:
            Parameter -> derivative of the loss by the values of this parameter in the tensor's group, through this
            tensor: (n_inputs,), zero for inputs that lack the tensor, or (1,). Not finite if the gradient is not.
        """
        source = self._source(name)
        if gradient.shape != source.shape:
            raise ValueError(
                f"{name}: expected a gradient of shape {tuple(source.shape)}; got {tuple(gradient.shape)}."
            )
        found = _contract(_Place(self._candidate, source), gradient.detach().to(source.device))
        result = {}
        for parameter, width in self.widths.items():
            result[parameter] = np.zeros(width)
            if parameter in found:
                result[parameter][list(self._present[name]) if self._per_input[parameter] else [0]] = found[parameter]
        return result


class _Place:
    """One tensor of a candidate, whose parameters can be varied."""

    def __init__(self, candidate: PreparedMerge, source: TensorSource) -> None:
        self.candidate = candidate
        self.method = candidate.method
        self.source = source
        self.given: Given = candidate.given(source.tensor)

    @property
    def coordinates(self) -> list[tuple[str, int]]:
        """Return the values that the tensor is differentiated by: parameter, and index of an input (or 0)."""
        sizes = {
            name: len(v) if isinstance(v := self.given[name], tuple) else 1 for name in self.method.gradient.parameters
        }
        return [(name, index) for name, size in sizes.items() for index in range(size)]

    def at(self, name: str, index: int, change: float) -> Given | None:
        """Return the keywords with one value changed by so much; None where that is not allowed."""
        old = self.given[name]
        values = list(old) if isinstance(old, tuple) else [old]
        values[index] += change
        low, high = self.method.allowed[name]
        if not low <= values[index] <= high:
            return None
        return {**self.given, name: tuple(values) if isinstance(old, tuple) else values[0]}

    def prepare(self, given: Given) -> Any:
        """Return what the method prepares with these keywords, or CopyOf."""
        return self.candidate.prepare(self.source, given)

    def away(self) -> tuple[Given, Any]:
        """Return the keywords and what is prepared for them: at a point that gives a copy of a model, those beside it.

        Moves as few parameters as possible; still a copy if none of them matters.
        """
        prepared, given = self.prepare(self.given), self.given
        names = self.method.gradient.parameters
        for moved in (*((name,) for name in names), names):
            if not isinstance(prepared, CopyOf):
                break
            given = {**self.given, **{name: self._beside(name) for name in moved}}
            prepared = self.prepare(given)
        return given, prepared

    def _beside(self, name: str) -> Any:
        old, high = self.given[name], self.method.allowed[name][1]
        moved = [v + _AWAY if v + _AWAY <= high else v - _AWAY for v in (old if isinstance(old, tuple) else (old,))]
        return tuple(moved) if isinstance(old, tuple) else moved[0]


def _contract(place: _Place, gradient: Tensor) -> Found:
    nothing = not place.source.numel or not place.source.input_names
    if nothing or (_of_deltas(place) and place.source.identical):
        return {}
    rule = place.method.gradient
    if isinstance(rule, Combination):
        return _by_coefficients(place, rule, gradient)
    if isinstance(rule, Contraction):
        return _by_the_method(place, rule, gradient)
    return _by_differences(place, gradient)


def _by_coefficients(place: _Place, rule: Combination, gradient: Tensor) -> Found:
    jacobian = [_coefficient_slopes(place, rule, name, index) for name, index in place.coordinates]
    given, prepared = place.away()
    if isinstance(prepared, CopyOf) or all(row is None for row in jacobian):
        return {}
    dots = np.array(_dots(place, rule, {**given, "prepared": prepared}, gradient))
    with np.errstate(invalid="ignore"):  # of a gradient that is not finite
        return _by_parameter(place, [0.0 if row is None else float(row @ dots) for row in jacobian])


def _coefficient_slopes(place: _Place, rule: Combination, name: str, index: int) -> FloatArray | None:
    """Return the derivative of the coefficients by one value, (n_coefficients,); None if nothing depends on it."""
    for stencil in _STENCILS:
        total: Any = 0.0
        for steps, factor in stencil.items():
            found = _coefficients(place, rule, place.at(name, index, steps * _STEP))
            if found is None:
                break
            total = total + factor / _STEP * found
        else:
            return np.asarray(total)
    return None


def _coefficients(place: _Place, rule: Combination, given: Given | None) -> FloatArray | None:
    if given is None:
        return None
    try:
        prepared = place.prepare({**given, **rule.options})
    except MethodError:  # beyond the edge of what the method takes
        return None
    return None if isinstance(prepared, CopyOf) else np.array(rule.coefficients(prepared), dtype=np.float64)


def _dots(place: _Place, rule: Combination, given: Given, gradient: Tensor) -> list[float]:
    """Return the dot products of the gradient with the terms."""
    if rule.terms is not None:
        terms = partial(rule.terms, **_taken(place.method.gradient_takes, given))
        return _sum_tiles(place, gradient, partial(_term_dots, place, terms))
    source = place.source
    members, relative = place.candidate.summands(source, given["prepared"])
    models, base = [source.whole(model) for model in members], source.whole(BASE) if relative else None
    plain = gradient.contiguous() if gradient.dtype != torch.float64 else gradient.float().contiguous()
    found = model_dots(models, base, plain, source.pieces)
    if found is not None:
        return found
    return _sum_tiles(place, gradient, partial(_model_dots, source, members, relative))


def _term_dots(place: _Place, terms: Callable[..., Any], gradient: Tensor, tile: Tile) -> list[float]:
    models, here = _operands(place, tile)
    return [dot(gradient, term.reshape(-1)) for term in terms(models, **_taken(place.method.gradient_takes, here))]


def _model_dots(
    source: TensorSource, members: Sequence[int], relative: bool, gradient: Tensor, tile: Tile
) -> list[float]:
    # One model at a time: off the CPU, tiles are whole tensors.
    read = partial(source.deltas, base=source.base(tile)) if relative else source.weights
    return [dot(gradient, read(model, tile)) for model in members]


def _by_the_method(place: _Place, rule: Contraction, gradient: Tensor) -> Found:
    given, prepared = place.away()
    if isinstance(prepared, CopyOf):
        return {}

    def contract(part: Tensor, tile: Tile) -> list[float]:
        models, here = _operands(place, tile)
        keywords = _taken(place.method.gradient_takes, {**given, "prepared": prepared, **here})
        found = rule.contract(models, part, **keywords)
        return [value for name in rule.parameters for value in np.atleast_1d(found[name]).tolist()]

    return _by_parameter(place, _sum_tiles(place, gradient, contract))


def _by_differences(place: _Place, gradient: Tensor) -> Found:
    points: list[tuple[Given, float]] = [(place.given, 1.0)]
    for name, index in place.coordinates:
        above = place.at(name, index, 1.0)
        points.append((place.at(name, index, -1.0) or place.given, -1.0) if above is None else (above, 1.0))
    prepared = [place.prepare(given) for given, _ in points]

    def results(part: Tensor, tile: Tile) -> list[float]:
        return [_result_dot(place, given, one, part, tile) for (given, _), one in zip(points, prepared, strict=True)]

    here, *others = _sum_tiles(place, gradient, results)
    return _by_parameter(place, [(v - here) / step for v, (_, step) in zip(others, points[1:], strict=True)])


def _result_dot(place: _Place, given: Given, prepared: Any, gradient: Tensor, tile: Tile) -> float:
    """Return the dot product of the gradient with the result, or with its change to the base for `deltas`."""
    source, method = place.source, place.method
    if isinstance(prepared, CopyOf):
        if _of_deltas(place):
            return 0.0 if prepared.model == BASE else dot(gradient, source.deltas(prepared.model, tile))
        return dot(gradient, source.base(tile) if prepared.model == BASE else source.weights(prepared.model, tile))
    models, here = _operands(place, tile)
    keywords = _taken(method.kernel_takes, {**given, "prepared": prepared, **here})
    return dot(gradient, method.kernel(models, **keywords).reshape(-1))


def _sum_tiles(place: _Place, gradient: Tensor, contract: Callable[[Tensor, Tile], list[float]]) -> list[float]:
    """Sum the values of all tiles, each with its part of the gradient in float32; one tile for `whole` methods."""
    source = place.source
    flat = gradient.reshape(-1)
    if place.method.whole:
        return source.alone(lambda: contract(flat.float(), source.entire))

    def one(tile: Tile) -> list[float]:
        part = flat[tile.start : tile.stop]
        if part.dtype != torch.float32:
            part = tile.memory.get("gradient", len(part), part.device).copy_(part)
        return contract(part, tile)

    return [sum(column) for column in zip(*source.map(one), strict=True)]


def _by_parameter(place: _Place, values: Sequence[float]) -> Found:
    found: Found = {}
    for (name, _), value in zip(place.coordinates, values, strict=True):
        found.setdefault(name, []).append(value)
    return found


def _of_deltas(place: _Place) -> bool:
    return place.method.operates_on == "deltas"


def _operands(place: _Place, tile: Tile) -> tuple[Sequence[Tensor], dict[str, Any]]:
    """Return the models of a tile, or whole ones for a `whole` method, and the keywords that a function may request."""
    source = place.source
    models: Sequence[Tensor] = Models(source, deltas=_of_deltas(place))
    base = None
    if not place.method.whole:
        models, base = place.candidate.operands(source, tile)
    elif "base" in place.method.kernel_takes:
        base = source.shaped(BASE)
    return models, {"tile": tile, "base": base, "source": source}


def _taken(names: frozenset[str], given: Given) -> dict[str, Any]:
    return {name: value for name, value in given.items() if name in names}
