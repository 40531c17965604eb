"""A candidate: one validated merge, applied to one tensor at a time."""

import json
import math
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from evomerge import plugins
from evomerge.errors import EvomergeError
from evomerge.merging.fused.flags import Flag
from evomerge.merging.fused.masks import write_sparse
from evomerge.merging.fused.tensors import write_sum
from evomerge.merging.method import BASE, CopyOf, MergeMethod, MethodError, SumOf
from evomerge.merging.tiles import Models, TensorSource, Tile
from evomerge.recipe import Merge

#: memory(dtype, shape) -> a contiguous tensor with arbitrary values.
Memory = Callable[[torch.dtype, torch.Size], Tensor]
#: Largest distance from 1 of a sum of coefficients that are normalized in float64.
_ADDED_UP = 1e-9


class MergeError(EvomergeError):
    """Models that do not match, a target that cannot be written, or a result that is not finite."""


class PreparedMerge:
    """A merge of the models `names` over tensors; `present`: tensor -> indices of the inputs that have it.

    Raises MergeError for a recipe of other models, MethodError for unsupported options, parameters and numbers of
    models, SpaceError for coefficients that do not cover the tensors.
    """

    def __init__(self, merge: Merge, names: tuple[str, ...], present: Mapping[str, tuple[int, ...]]) -> None:
        recipe = merge.recipe
        recipe_names = tuple(model.name for model in recipe.inputs)
        if recipe_names != names:
            raise MergeError(f"The recipe merges {list(recipe_names)}, the engine has {list(names)}.")
        self.seed = merge.seed
        self.method: MergeMethod = plugins.load("merge method", recipe.method, MergeMethod)
        for indices in dict.fromkeys(present.values()):
            self.method.check(recipe.options, len(indices))
        self._options = {**self.method.options, **recipe.options}
        self._table = merge.table.bind(tuple(present))
        self._n_inputs = len(names)
        self._present = present
        self._settings = (
            recipe.method,
            json.dumps(self._options, sort_keys=True),
            merge.seed if self.method.random else None,
        )
        self._arguments = {
            members[0]: self.method.arguments(self._table.at(members[0]), names, group)
            for group, members in self._table.groups.items()
            if members
        }
        self._first = {name: members[0] for members in self._table.groups.values() for name in members}
        self._surveyed: Any = None

    def key(self, name: str) -> Hashable:
        """Return a key of a tensor; equal keys give equal results."""
        return self._settings, tuple(self._arguments[self._first[name]].items())

    def survey(self, sources: Iterable[TensorSource]) -> None:
        """Let the method inspect the whole model, if it needs to, before the first tensor is merged."""
        if self.method.survey is not None:
            chosen = _only(self._options, self.method.survey_takes)
            self._surveyed = self.method.survey(sources, **self._same_everywhere(), **chosen)

    @property
    def state(self) -> Mapping[str, Any] | None:
        """Return the `state` of the survey, from which a later merge can continue, if it has one."""
        state: Mapping[str, Any] | None = getattr(self._surveyed, "state", None)
        return state

    def merge(
        self, source: TensorSource, place: Tensor, dtype: torch.dtype, memory: Memory, flag: Flag | None = None
    ) -> int:
        """Write the merged tensor, rounded to `dtype`, and return how many of its values are not finite.

        Args:
            source: The tensor of all models.
            place: Where to write to; of any dtype and memory layout.
            dtype: The target dtype; its values are written, even if `place` has another dtype.
            memory: memory(dtype, shape) -> a contiguous tensor for results before they are copied to such a place.
            flag: May be set later, on a GPU, if results are not finite, instead of waiting for them.

        Returns:
            The number of results that are not finite, as far as they are known; `place` then has arbitrary values.
        """
        given = self.given(source.tensor)
        prepared = self.prepare(source, given)
        if self._fused(source, given, prepared, place, dtype, flag):
            increment_version(place)  # networks copy rearranged weights when this has changed
            return 0
        if place.dtype == dtype and place.is_contiguous():
            return self._merge(source, given, prepared, place)
        out = memory(dtype, source.shape)
        count = self._merge(source, given, prepared, out)
        place.copy_(out)
        return count

    def summands(self, source: TensorSource, prepared: SumOf) -> tuple[tuple[int, ...], bool]:
        """Return the models of a sum, the base as -1, and whether it is of their deltas."""
        inputs = tuple(range(len(source.input_names)))
        if prepared.of == "base and weights":
            return (BASE, *inputs), False
        return inputs, prepared.of == "deltas" or self.method.operates_on == "deltas"

    def of_deltas(self, source: TensorSource) -> tuple[float, ...] | None:
        """Return the inputs' coefficients if the merged tensor is the base plus a sum of their changes to it, or None.

        A sum of the models themselves leaves the base in place if its coefficients add up to 1.
        """
        prepared = self.prepare(source, self.given(source.tensor))
        inputs = range(len(source.input_names))
        if isinstance(prepared, CopyOf):
            return tuple(float(index == prepared.model) for index in inputs)
        if not isinstance(prepared, SumOf):
            return None
        members, relative = self.summands(source, prepared)
        if not relative and abs(sum(prepared.coefficients) - 1.0) > _ADDED_UP:
            return None
        found = dict(zip(members, prepared.coefficients, strict=True))
        return tuple(found[index] for index in inputs)

    def _fused(
        self,
        source: TensorSource,
        given: Mapping[str, Any],
        prepared: Any,
        place: Tensor,
        dtype: torch.dtype,
        flag: Flag | None,
    ) -> bool:
        """Return whether a compiled pass has written the result, all of it finite unless the flag will be set."""
        if isinstance(prepared, CopyOf):
            return False
        if self.method.fused is not None:
            sparse = self.method.fused(source, **_only({**given, "prepared": prepared}, self.method.fused_takes))
            models = [source.whole(index) for index in range(len(source.input_names))]
            return write_sparse(sparse, models, source.whole(BASE), place, dtype, source.pieces, flag)
        if not isinstance(prepared, SumOf):
            return False
        members, relative = self.summands(source, prepared)
        models, base = [source.whole(model) for model in members], source.whole(BASE) if relative else None
        return write_sum(models, prepared.coefficients, base, place, dtype, source.pieces, flag)

    def _merge(self, source: TensorSource, given: dict[str, Any], prepared: Any, out: Tensor) -> int:
        if isinstance(prepared, CopyOf):
            out.copy_(source.whole(prepared.model))
            doubtful = [not _sum_is_finite(out)]
        elif self.method.whole:
            merged = source.alone(lambda: self._whole(source, {**given, "prepared": prepared, "source": source}))
            out.copy_(merged.reshape(out.shape))
            doubtful = [True]
        else:
            doubtful = self._run(source, {**given, "prepared": prepared}, out.view(-1))
        # Large finite values may overflow only in the sum.
        return int((~torch.isfinite(out)).sum()) if any(doubtful) else 0

    @property
    def groups(self) -> Mapping[str, tuple[str, ...]]:
        """Return the groups of the coefficients, with the tensors in each."""
        return self._table.groups

    @property
    def options(self) -> Mapping[str, Any]:
        """Return the options of the method."""
        return self._options

    def given(self, tensor: str) -> dict[str, Any]:
        """Return the keywords of a tensor: parameters, for the inputs that have it, options, and `surveyed`."""
        arguments: dict[str, Any] = self._arguments[self._first[tensor]]
        indices = self._present[tensor]
        here = {
            name: tuple(value[index] for index in indices) if isinstance(value, tuple) else value
            for name, value in arguments.items()
        }
        return {**here, **self._options, "surveyed": self._surveyed}

    def prepare(self, source: TensorSource, given: Mapping[str, Any]) -> Any:
        """Return what the method prepares for a tensor with these keywords, or CopyOf."""
        return source.alone(lambda: self._prepare(source, given))

    def operands(self, source: TensorSource, tile: Tile) -> tuple[list[Tensor], Tensor | None]:
        """Return the tile of each input that kernels get, and the base's tile if they may need it."""
        if self.method.operates_on == "deltas":
            base = source.base(tile)
            return [source.deltas(index, tile, base) for index in range(len(source.input_names))], base
        weights = [source.weights(index, tile) for index in range(len(source.input_names))]
        return weights, source.base(tile) if "base" in self.method.kernel_takes else None

    def _same_everywhere(self) -> dict[str, Any]:
        """Return the parameters that the survey takes. Raises MethodError if they differ between tensors."""
        found = {}
        for name in (p.name for p in self.method.parameters if p.name in self.method.survey_takes):
            values = list(dict.fromkeys(arguments[name] for arguments in self._arguments.values()))
            if len(values) != 1:
                raise MethodError(
                    f"{self.method.name} surveys the whole model with a single {name}, the same for all tensors; "
                    f"it has {len(values)} different ones, such as {values[0]} and {values[1]}: "
                    f"use one group (space: uniform)."
                )
            found[name] = values[0]
        return found

    def _prepare(self, source: TensorSource, given: Mapping[str, Any]) -> Any:
        method = self.method
        if method.operates_on == "deltas" and source.identical:
            return CopyOf(BASE)
        if method.prepare is None:
            return None
        return method.prepare(source, **_only(given, method.prepare_takes))

    def _whole(self, source: TensorSource, given: dict[str, Any]) -> Tensor:
        method = self.method
        deltas = method.operates_on == "deltas"
        given |= {"tile": source.entire}
        if "base" in method.kernel_takes:
            given["base"] = source.shaped(BASE)
        merged = method.kernel(Models(source, deltas=deltas), **_only(given, method.kernel_takes))
        return merged.add(source.whole(BASE)) if deltas else merged

    def _run(self, source: TensorSource, given: dict[str, Any], out: Tensor) -> list[bool]:
        method = self.method
        fixed = _only(given, method.kernel_takes)
        takes_base, takes_tile = "base" in method.kernel_takes, "tile" in method.kernel_takes

        def write(tile: Tile) -> bool:
            keywords = {**fixed, "tile": tile} if takes_tile else fixed
            models, base = self.operands(source, tile)
            merged = method.kernel(models, **keywords, **({"base": base} if takes_base else {}))
            if base is not None and method.operates_on == "deltas":
                merged.add_(base)
            # Not the unrounded values: rounding can overflow.
            return not _sum_is_finite(out[tile.start : tile.stop].copy_(merged))

        return source.map(write)


def _only(given: Mapping[str, Any], names: frozenset[str]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if name in names}


def _sum_is_finite(values: Tensor) -> bool:
    # The cheapest check of every element: a sum is finite only if they all are.
    return math.isfinite(torch.sum(values, dtype=torch.float32).item())
