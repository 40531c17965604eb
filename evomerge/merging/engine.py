"""MergeEngine: a merge method applied to models, in place into resident weights or streamed to a file.

Every tensor goes through `_merge`, whoever asks: what a search scored is what an export writes, bit for bit.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Protocol

import torch
from torch import Tensor

from evomerge.merging.factors import Factors
from evomerge.merging.method import BASE
from evomerge.merging.models.model import Model
from evomerge.merging.prepared import MergeError, PreparedMerge
from evomerge.merging.tiles import Moments, TensorSource, Workers
from evomerge.recipe import Merge

__all__ = ["MergeEngine", "MergeError", "Weights"]


class Weights(Protocol):
    """What the engine needs of a checkpoint."""

    @property
    def names(self) -> tuple[str, ...]:
        """Every tensor, in checkpoint order."""

    def mergeable(self, name: str) -> bool:
        """Whether the tensor is merged; others are copied from the base."""

    def tensor(self, name: str) -> Tensor:
        """The tensor, on the CPU; it is only read."""


class MergeEngine:
    """Merges models into a base: `apply` into resident tensors, `stream` one tensor after the other.

    dtype: of the merged tensors, None for the base's own; where that is a 16-bit type, resident tensors may be float32,
    and hold the same rounded values. Off the CPU, `apply` keeps a copy of every original on the device. threads: of
    torch, while merging; the bits do not depend on their number. moments: statistics from data of the base and of each
    input, None for a model without. An input that lacks a tensor takes no part in it; whether it may is for whoever
    opened the models to say. keep: bytes of tensors that inputs compute (adapters, folded) that `apply` may hold on to
    instead of computing them for every candidate.
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
            raise MergeError(f"{len(inputs)} inputs need as many different names; they are {list(names)}.")
        self._models = (base, *inputs)
        self._names = tuple(names)
        if moments and len(moments) != len(inputs) + 1:
            raise MergeError(f"{len(inputs)} inputs and the base need as many statistics; there are {len(moments)}.")
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
        self._on_device: dict[str, list[Tensor]] = {}
        #: Results on their way to places of another type or order of elements.
        self._rounded: dict[torch.dtype, Tensor] = {}
        self._kept: dict[tuple[int, str], Tensor] = {}
        self._room = keep
        # What was applied last: tensor name -> (settings and coefficients, the tensor written to).
        self._applied: dict[str, tuple[Hashable, Tensor]] = {}
        #: Of the last `stream` that was begun: what a later merge needs to go on from it, plain data.
        self.state: Mapping[str, Any] | None = None

    def apply(self, merge: Merge, into: Mapping[str, Tensor]) -> tuple[str, ...]:
        """Merge into resident tensors, in place; returns the names of those that were written.

        Always from the originals, and only where coefficients, method, options, the seed of a random method,
        or the tensor written to differ from the last time: nobody else may change the tensors in between.
        Raises MergeError; after an error of any sort the next call writes everything.
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
        for name in changed:
            self._write(candidate, self._source(candidate, name, keep=True), into[name].detach())
        self._applied = after
        return changed

    def forget(self) -> None:
        """Let the next `apply` write everything: the resident tensors were changed by others."""
        self._applied = {}

    def stream(self, merge: Merge) -> Iterator[tuple[str, Tensor]]:
        """Every tensor of the base in checkpoint order, merged or copied; holds one tensor at a time.

        Raises MergeError.
        """
        candidate = self._candidate(merge)
        candidate.survey(_Sources(self, candidate, keep=False))
        self.state = candidate.state
        for name in self._models[0].names:
            if name in self._present:
                source = self._source(candidate, name, keep=False)
                out = torch.empty(source.shape, dtype=self._target(source.whole(BASE)), device=self._device)
                self._merge(candidate, source, out)
                yield name, out.cpu()
            else:
                yield name, self._models[0].tensor(name)

    def check(self, merge: Merge) -> None:
        """Raise what `apply` and `stream` raise for a recipe, its coefficients and statistics; reads no weights."""
        self._candidate(merge)

    def sources(self, candidate: PreparedMerge, *, keep: bool) -> Iterator[TensorSource]:
        """The merged tensors of a candidate one after the other. keep: what is cached stays for the next merge."""
        for name in self._present:
            yield self._source(candidate, name, keep=keep)

    def _candidate(self, merge: Merge) -> PreparedMerge:
        candidate = PreparedMerge(merge, self._names, self._present)
        for kind in candidate.method.needs:
            for name, moments in zip(self._names, self._moments[1:] or [None] * len(self._names), strict=True):
                if moments is None or moments.kinds.isdisjoint(kind.split("|")):
                    raise MergeError(
                        f"{candidate.method.name} needs the statistics {kind!r} of every input, and {name!r} has none: "
                        f"collect them with `evomerge tools calibrate MODEL --data FILE -o S.safetensors` and name "
                        f"the file in the recipe (inputs: {name}: {{path: ..., statistics: S.safetensors}})."
                    )
        return candidate

    def _write(self, candidate: PreparedMerge, source: TensorSource, place: Tensor) -> None:
        """Merge into a place, which a network may want transposed or in another type than the result's.

        Its values are those of the result, rounded to its type first: what a loaded export has there.
        """
        dtype = self._target(source.whole(BASE))
        if place.dtype == dtype and place.is_contiguous():
            self._merge(candidate, source, place)
            return
        if dtype not in self._rounded or self._rounded[dtype].numel() < source.numel:
            self._rounded[dtype] = torch.empty(source.numel, dtype=dtype, device=self._device)
        result = self._rounded[dtype][: source.numel].view(source.shape)
        self._merge(candidate, source, result)
        place.copy_(result)

    def _merge(self, candidate: PreparedMerge, source: TensorSource, out: Tensor) -> None:
        count = candidate.merge(source, out)
        if count:
            dtype = str(out.dtype).removeprefix("torch.")
            hint = ": overflow? try dtype bfloat16 or float32" if out.dtype == torch.float16 else ""
            raise MergeError(f"merge produced {count} non-finite values in {source.tensor} (dtype {dtype}{hint})")

    def _source(self, candidate: PreparedMerge, name: str, *, keep: bool) -> TensorSource:
        """One tensor of all models that have it. keep: what a method caches stays for the next merge."""
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
        if self._device.type == "cpu":
            return self._load(name, self._read_or_kept)
        if name not in self._on_device:
            self._on_device[name] = list(self._load(name, self._read))
        return self._on_device[name]

    def _read(self, model: int, name: str) -> Tensor:
        return self._models[model].tensor(name)

    def _read_or_kept(self, model: int, name: str) -> Tensor:
        """A tensor of the base (0) or an input; one that is computed is kept while there is room."""
        if (model, name) in self._kept:
            return self._kept[model, name]
        tensor, owner = self._read(model, name), self._models[model]
        if isinstance(owner, Model) and owner.made(name) and tensor.nbytes <= self._room:
            self._kept[model, name] = tensor
            self._room -= tensor.nbytes
        return tensor

    def _target(self, base: Tensor) -> torch.dtype:
        return self._dtype or base.dtype

    def _check_place(self, name: str, place: Tensor | None) -> None:
        if place is None:
            raise MergeError(f"The resident model has no tensor {name!r}.")
        shape = tuple(self._models[0].tensor(name).shape)
        wanted, found = (shape, self._device.type), (tuple(place.shape), place.device.type)
        if found != wanted or not place.dtype.is_floating_point:
            raise MergeError(
                f"{name}: the resident tensor must be of shape {wanted[0]} on {wanted[1]} and of a floating type; it "
                f"is {str(place.dtype).removeprefix('torch.')} of shape {found[0]} on {found[1]}."
            )


class _Reading(Sequence[Tensor]):
    """One tensor of the base and the inputs, each read when it is first asked for: folding an adapter takes time."""

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
    """One source per merged tensor, made anew each time it is iterated over: what a survey of the model reads."""

    def __init__(self, engine: MergeEngine, candidate: PreparedMerge, *, keep: bool) -> None:
        self._engine = engine
        self._candidate = candidate
        self._keep = keep

    def __iter__(self) -> Iterator[TensorSource]:
        return self._engine.sources(self._candidate, keep=self._keep)
