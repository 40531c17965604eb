"""A candidate: one merge, checked, and applied to one tensor at a time."""

import json
import math
from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor

from evomerge import plugins
from evomerge.merging.method import BASE, CopyOf, MergeMethod
from evomerge.merging.tiles import Source, Tile
from evomerge.recipe import Merge


class MergeError(ValueError):
    """Models that do not fit, a place that a merge cannot be written to, or a result that is not finite."""


class Candidate:
    """A merge of the models `names` over the tensors `mergeable`.

    Raises MergeError for a recipe of other models, MethodError for options and parameters that the method
    does not take, SpaceError for coefficients that do not cover the tensors.
    """

    def __init__(self, merge: Merge, names: tuple[str, ...], mergeable: tuple[str, ...]) -> None:
        recipe = merge.recipe
        recipe_names = tuple(model.name for model in recipe.inputs)
        if recipe_names != names:
            raise MergeError(f"The recipe merges {list(recipe_names)}, the engine has {list(names)}.")
        self.seed = merge.seed
        self._method: MergeMethod = plugins.load("merge method", recipe.method, MergeMethod)
        self._method.check(recipe.options, len(names))
        self._options = {**self._method.options, **recipe.options}
        self._table = merge.table.bind(mergeable)
        self._n_inputs = len(names)
        self._settings = (
            recipe.method,
            json.dumps(self._options, sort_keys=True),
            merge.seed if self._method.random else None,
        )
        self._arguments = {
            members[0]: self._method.arguments(self._table.at(members[0]), self._n_inputs)
            for members in self._table.groups.values()
            if members
        }
        self._first = {name: members[0] for members in self._table.groups.values() for name in members}

    def key(self, name: str) -> Hashable:
        """Equal keys of a tensor give equal results."""
        return self._settings, tuple(self._arguments[self._first[name]].items())

    def merge(self, source: Source, out: Tensor) -> int:
        """Write the merged tensor to `out`, contiguous and of the wanted type; returns how many of its values
        are not finite.
        """
        given = {**self._arguments[self._first[source.tensor]], **self._options}
        prepared = self._prepare(source, given)
        if isinstance(prepared, CopyOf):
            out.copy_(source.whole(prepared.model))
            doubtful = [not _sum_is_finite(out)]
        else:
            doubtful = self._run(source, {**given, "prepared": prepared}, out.view(-1))
        # Large finite values may overflow the sum alone.
        return int((~torch.isfinite(out)).sum()) if any(doubtful) else 0

    def _prepare(self, source: Source, given: dict[str, Any]) -> Any:
        method = self._method
        if method.operates_on == "deltas" and source.identical:
            return CopyOf(BASE)
        if method.prepare is None:
            return None
        return method.prepare(source, **_only(given, method.prepare_takes))

    def _run(self, source: Source, given: dict[str, Any], out: Tensor) -> list[bool]:
        method = self._method
        fixed = _only(given, method.kernel_takes)
        takes_base, takes_tile = "base" in method.kernel_takes, "tile" in method.kernel_takes

        def write(tile: Tile) -> bool:
            keywords = {**fixed, "tile": tile} if takes_tile else fixed
            if method.operates_on == "deltas":
                base = source.base(tile)
                deltas = [source.deltas(index, tile, base) for index in range(self._n_inputs)]
                merged = method.kernel(deltas, **keywords, **({"base": base} if takes_base else {})).add_(base)
            else:
                weights = [source.weights(index, tile) for index in range(self._n_inputs)]
                merged = method.kernel(weights, **keywords, **({"base": source.base(tile)} if takes_base else {}))
            place = out[tile.start : tile.stop].copy_(merged)
            # Only float16 has a range so much smaller that rounding overflows where float32 did not.
            return not _sum_is_finite(place if place.dtype == torch.float16 else merged)

        return source.map(write)


def _only(given: dict[str, Any], names: frozenset[str]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if name in names}


def _sum_is_finite(values: Tensor) -> bool:
    # The cheapest look at every element: a sum is finite only if they all are.
    return math.isfinite(torch.sum(values, dtype=torch.float32).item())
