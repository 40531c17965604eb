"""MergeEngine: applies a merge method to models, in place into resident weights or streamed to a file.

Every tensor goes through `_merge` in either case, so that an export equals what a search scored, bit for bit.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, Protocol

import torch
from torch import Tensor

from evomerge.merging.factors import Factors
from evomerge.merging.fused.flags import Flag, Flags
from evomerge.merging.fused.tensors import torch_only
from evomerge.merging.method import BASE
from evomerge.merging.models.model import Model
from evomerge.merging.moments import command_for
from evomerge.merging.prepared import MergeError, PreparedMerge
from evomerge.merging.slopes import Slopes
from evomerge.merging.tiles import Moments, TensorSource, Workers
from evomerge.recipe import Merge

__all__ = ["MergeEngine", "MergeError", "Weights"]


class Weights(Protocol):
    """The interface of a checkpoint that the engine requires."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all tensors, in checkpoint order."""

    def mergeable(self, name: str) -> bool:
        """Return whether the tensor is merged; others are copied from the base."""

    def tensor(self, name: str) -> Tensor:
        """Return the tensor, on the CPU; read-only."""


class MergeEngine:
    """Merges models into a base: `apply` into resident tensors, `stream` one tensor at a time.

    Off the CPU, `apply` keeps a copy of every original on the device. An input that lacks a tensor does not
    contribute to it; whether it may lack one is checked when the models are opened.

    Args:
        base: The base model.
        inputs: The models to merge, (n_inputs,).
        names: Their names, distinct, (n_inputs,).
        dtype: Dtype of the merged tensors, None for the base's own. For a 16-bit dtype, resident tensors may be
            float32, with the same rounded values.
        device: Torch device on which to merge.
        threads: Torch threads while merging; the result does not depend on their number.
        moments: Statistics of the base and of each input, (n_inputs + 1,), None for a model without; or empty.
        keep: Bytes of computed tensors (folded adapters) that `apply` may cache instead of computing them for every
            candidate.

    Raises:
        MergeError: Names or statistics do not match the inputs.

    Example:
        >>> import numpy as np
        >>> from evomerge.recipe import Input, Recipe
        >>> from search_spaces.base import CoefficientTable
        >>> class Checkpoint(dict):
        ...     names = ("w",)
        ...     def mergeable(self, name):
        ...         return True
        ...     def tensor(self, name):
        ...         return self[name]
        >>> base, expert = Checkpoint(w=torch.zeros(2)), Checkpoint(w=torch.tensor([1.0, 2.0]))
        >>> recipe = Recipe(Input("base", "models/base"), (Input("math", "models/math"),), "task_arithmetic")
        >>> table = CoefficientTable({"all": ("*",)}, {"weight": np.array([[0.5]])})
        >>> engine = MergeEngine(base, [expert], names=["math"])
        >>> {name: tensor.tolist() for name, tensor in engine.stream(Merge(recipe, table))}
        {'w': [0.5, 1.0]}
    """

    def __init__(
        self,
        base: Weights,
        inputs: Sequence[Weights],
        *,
        names: Sequence[str],
        dtype: torch.dtype | None = None,
        device: str = "cpu",
        threads: int = 1,
        moments: Sequence[Moments | None] = (),
        keep: int = 0,
    ) -> None:
        if len(names) != len(inputs) or len(set(names)) != len(names):
            raise MergeError(f"Expected {len(inputs)} distinct names for {len(inputs)} inputs; got {list(names)}.")
        self._models = (base, *inputs)
        self._names = tuple(names)
        if moments and len(moments) != len(inputs) + 1:
            raise MergeError(f"Expected statistics for the base and {len(inputs)} inputs; got {len(moments)}.")
        has = [frozenset(model.names) for model in inputs]
        #: Merged tensor -> the inputs that have it.
        self._present = {
            name: tuple(index for index, names_of in enumerate(has) if name in names_of)
            for name in base.names
            if base.mergeable(name)
        }
        self._moments = tuple(moments)
        self._dtype = dtype
        self._device = torch.device(device)
        self._workers = Workers(threads)
        self._caches: dict[str, dict[Hashable, Any]] = {name: {} for name in self._present}
        #: Tensor -> those of the models: mapped from files, which takes time to find; off the CPU, copies.
        self._found: dict[str, list[Tensor]] = {}
        #: Results before they are copied into tensors of another dtype or memory layout.
        self._rounded: dict[torch.dtype, Tensor] = {}
        self._kept: dict[tuple[int, str], Tensor] = {}
        self._room = keep
        # The last `apply`: tensor name -> (settings and coefficients, the tensor written to).
        self._applied: dict[str, tuple[Hashable, Tensor]] = {}
        #: State of the last `stream` begun, from which a later merge can continue, as plain data.
        self.state: Mapping[str, Any] | None = None

    def apply(self, merge: Merge, into: Mapping[str, Tensor]) -> tuple[str, ...]:
        """Merge into resident tensors, in place.

        Merges from the originals, and writes only tensors whose coefficients, method, options, seed (of a random
        method) or target differ from the last call; nothing else may change the tensors in between.

        Args:
            merge: The candidate.
            into: Resident tensors by name, of the base's shapes.

        Returns:
            The names of the tensors that were written.

        Raises:
            MergeError: The merge does not match the models, or a result is not finite; the next call writes everything.
        """
        candidate = self._candidate(merge)
        for name in self._present:
            self._check_place(name, into.get(name))
        before, self._applied = self._applied, {}
        after = {name: (candidate.key(name), into[name]) for name in self._present}
        changed = tuple(
            n for n in after if n not in before or before[n][0] != after[n][0] or before[n][1] is not into[n]
        )
        if changed:
            candidate.survey(_Sources(self, candidate, keep=True))
        flags = Flags(len(changed), self._device)
        with torch.no_grad():
            for number, name in enumerate(changed):
                self._merge_into(candidate, name, into, flags.at(number))
            with torch_only():  # counts values that are not finite
                for number in flags.raised():
                    self._merge_into(candidate, changed[number], into)
        self._applied = after
        return changed

    def forget(self) -> None:
        """Make the next `apply` write everything, because the resident tensors were changed elsewhere."""
        self._applied = {}

    def stream(self, merge: Merge) -> Iterator[tuple[str, Tensor]]:
        """Merge one tensor at a time.

        Args:
            merge: The candidate.

        Yields:
            Name and tensor of every tensor of the base, in checkpoint order, merged or copied.

        Raises:
            MergeError: The merge does not match the models, or a result is not finite.
        """
        candidate = self._candidate(merge)
        candidate.survey(_Sources(self, candidate, keep=False))
        self.state = candidate.state
        for name in self._models[0].names:
            if name in self._present:
                source = self._source(candidate, name, keep=False)
                out = torch.empty(source.shape, dtype=self._target(source.whole(BASE)), device=self._device)
                self._merge(candidate, source, out, out.dtype)
                yield name, out.cpu()
            else:
                yield name, self._models[0].tensor(name)

    def slopes(self, merge: Merge) -> Slopes:
        """Differentiate a merge by its coefficients, at fixed masks and elected signs.

        Args:
            merge: The candidate.

        Returns:
            A function from the name and gradient of each merged tensor to the slopes of its coefficients.

        Raises:
            MergeError: The merge does not match the models.
            MethodError: The method is not differentiated by any of its parameters, and why.
        """
        candidate = self._candidate(merge)
        candidate.survey(_Sources(self, candidate, keep=True))
        source = partial(self._source, candidate, keep=True)
        return Slopes(candidate, source, self._present, len(self._names))

    def of_deltas(self, merge: Merge) -> dict[str, tuple[float, ...]] | None:
        """Describe a merge as the base plus sums of the inputs' changes to it, without computing it.

        Args:
            merge: The candidate.

        Returns:
            Merged tensor -> coefficient of every input that has it; None if a tensor is no such sum.

        Raises:
            MergeError: The merge does not match the models.
        """
        candidate = self._candidate(merge)
        if candidate.method.survey is not None:
            return None
        found: dict[str, tuple[float, ...]] = {}
        for source in self.sources(candidate, keep=True):
            coefficients = candidate.of_deltas(source)
            if coefficients is None:
                return None
            found[source.tensor] = coefficients
        return found

    def check(self, merge: Merge) -> None:
        """Check a recipe, its coefficients and statistics without reading weights. Raises like `apply`."""
        self._candidate(merge)

    def sources(self, candidate: PreparedMerge, *, keep: bool) -> Iterator[TensorSource]:
        """Yield the merged tensors of a candidate one by one. keep: whether cached data stays for the next merge."""
        for name in self._present:
            yield self._source(candidate, name, keep=keep)

    def _candidate(self, merge: Merge) -> PreparedMerge:
        candidate = PreparedMerge(merge, self._names, self._present)
        for kind in candidate.method.needs:
            for name, moments in zip(self._names, self._moments[1:] or [None] * len(self._names), strict=True):
                if moments is None or moments.kinds.isdisjoint(kind.split("|")):
                    raise MergeError(
                        f"{candidate.method.name} needs the statistics {kind!r} of every input, and {name!r} has none: "
                        f"collect them with `{command_for(kind)}` and name the file in the recipe "
                        f"(inputs: {name}: {{path: ..., statistics: S.safetensors}})."
                    )
        return candidate

    def _merge_into(
        self, candidate: PreparedMerge, name: str, into: Mapping[str, Tensor], flag: Flag | None = None
    ) -> None:
        source = self._source(candidate, name, keep=True)
        self._merge(candidate, source, into[name].detach(), self._target(source.whole(BASE)), flag)

    def _merge(
        self,
        candidate: PreparedMerge,
        source: TensorSource,
        place: Tensor,
        dtype: torch.dtype,
        flag: Flag | None = None,
    ) -> None:
        """Merge into a tensor that may be transposed or of another dtype than the result.

        Its values are those of the result rounded to its dtype first, as in a loaded export.
        """
        count = candidate.merge(source, place, dtype, self._memory, flag)
        if count:
            name = str(dtype).removeprefix("torch.")
            hint = " If this is an overflow, try dtype bfloat16 or float32." if dtype == torch.float16 else ""
            raise MergeError(f"The merge has {count} non-finite values in {source.tensor} (dtype {name}).{hint}")

    def _memory(self, dtype: torch.dtype, shape: torch.Size) -> Tensor:
        if dtype not in self._rounded or self._rounded[dtype].numel() < shape.numel():
            self._rounded[dtype] = torch.empty(shape.numel(), dtype=dtype, device=self._device)
        return self._rounded[dtype][: shape.numel()].view(shape)

    def _source(self, candidate: PreparedMerge, name: str, *, keep: bool) -> TensorSource:
        """Return one tensor of all models that have it. keep: whether cached data stays for the next merge."""
        present = self._present[name]
        cache = self._caches[name]
        return TensorSource(
            name,
            tuple(self._names[index] for index in present),
            self._resident(name) if keep else self._load(name, self._read),
            seed=candidate.seed,
            cache=cache if keep else dict(cache),
            workers=self._workers,
            moments=[self._moments[0], *(self._moments[index + 1] for index in present)] if self._moments else (),
            factors=lambda index: self._factors(present[index], name),
        )

    def _factors(self, index: int, name: str) -> Factors | None:
        base, model = self._models[0], self._models[index + 1]
        return model.factors(name, base) if isinstance(base, Model) and isinstance(model, Model) else None

    def _load(self, name: str, tensor: Callable[[int, str], Tensor]) -> Sequence[Tensor]:
        base = tensor(0, name)
        present = self._present[name]

        def read(place: int) -> Tensor:
            if place == 0:
                return base.to(self._device)
            index = present[place - 1]
            model = tensor(index + 1, name)
            if model.shape != base.shape:
                shapes = f"{tuple(model.shape)} in {self._names[index]!r} and {tuple(base.shape)} in the base"
                raise MergeError(f"{name} has shape {shapes}.")
            return model.to(self._device)

        return _Reading(len(present) + 1, read)

    def _resident(self, name: str) -> Sequence[Tensor]:
        if name in self._found:
            return self._found[name]
        members = (0, *(index + 1 for index in self._present[name]))
        if self._device.type == "cpu" and any(_made(self._models[member], name) for member in members):
            return self._load(name, self._read_or_kept)
        self._found[name] = list(self._load(name, self._read))
        return self._found[name]

    def _read(self, model: int, name: str) -> Tensor:
        return self._models[model].tensor(name)

    def _read_or_kept(self, model: int, name: str) -> Tensor:
        """Return a tensor of the base (0) or an input; computed ones are cached while there is room."""
        if (model, name) in self._kept:
            return self._kept[model, name]
        tensor = self._read(model, name)
        if _made(self._models[model], name) and tensor.nbytes <= self._room:
            self._kept[model, name] = tensor
            self._room -= tensor.nbytes
        return tensor

    def _target(self, base: Tensor) -> torch.dtype:
        return self._dtype or base.dtype

    def _check_place(self, name: str, place: Tensor | None) -> None:
        if place is None:
            raise MergeError(f"The resident model has no tensor {name!r}.")
        shape = tuple(self._resident(name)[0].shape)
        wanted, found = (shape, self._device.type), (tuple(place.shape), place.device.type)
        if found != wanted or not place.dtype.is_floating_point:
            raise MergeError(
                f"{name}: the resident tensor must have shape {wanted[0]} on {wanted[1]} and a floating dtype; it "
                f"is {str(place.dtype).removeprefix('torch.')} of shape {found[0]} on {found[1]}."
            )


def _made(model: Weights, name: str) -> bool:
    return isinstance(model, Model) and model.made(name)


class _Reading(Sequence[Tensor]):
    """One tensor of the base and the inputs, each read on first use: folding an adapter takes time."""

    def __init__(self, size: int, read: Callable[[int], Tensor]) -> None:
        self._size = size
        self._read = lru_cache(maxsize=None)(read)

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, place: Any) -> Any:
        if not 0 <= place < self._size:
            raise IndexError(place)
        return self._read(place)


class _Sources:
    """An iterable of one source per merged tensor, created anew each time, for a survey of the whole model."""

    def __init__(self, engine: MergeEngine, candidate: PreparedMerge, *, keep: bool) -> None:
        self._engine = engine
        self._candidate = candidate
        self._keep = keep

    def __iter__(self) -> Iterator[TensorSource]:
        return self._engine.sources(self._candidate, keep=self._keep)
