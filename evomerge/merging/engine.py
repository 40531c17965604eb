"""MergeEngine: a merge method applied to models, in place into resident weights or streamed to a file.

Every tensor goes through `_merge`, whoever asks: what a search scored is what an export writes, bit for bit.
"""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from evomerge.merging.candidate import Candidate, MergeError
from evomerge.merging.tiles import Source, Workers
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

    dtype: of the merged tensors, None for the base's own. Off the CPU, `apply` keeps a copy of every original
    on the device. threads: of torch, while merging; the bits do not depend on their number.
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
    ) -> None:
        if len(names) != len(inputs) or len(set(names)) != len(names):
            raise MergeError(f"{len(inputs)} inputs need as many different names; they are {list(names)}.")
        self._models = (base, *inputs)
        self._names = tuple(names)
        self._mergeable = tuple(name for name in base.names if base.mergeable(name))
        self._dtype = dtype
        self._device = torch.device(device)
        self._workers = Workers(threads)
        self._statistics: dict[str, dict[Hashable, Any]] = {name: {} for name in self._mergeable}
        self._on_device: dict[str, list[Tensor]] = {}
        # What was applied last: tensor name -> (settings and coefficients, the tensor written to).
        self._applied: dict[str, tuple[Hashable, Tensor]] = {}

    def apply(self, merge: Merge, into: Mapping[str, Tensor]) -> tuple[str, ...]:
        """Merge into resident tensors, in place; returns the names of those that were written.

        Always from the originals, and only where coefficients, method, options, the seed of a random method,
        or the tensor written to differ from the last time: nobody else may change the tensors in between.
        Raises MergeError; after an error of any sort the next call writes everything.
        """
        candidate = Candidate(merge, self._names, self._mergeable)
        for name in self._mergeable:
            self._check_place(name, into.get(name))
        before, self._applied = self._applied, {}
        after, changed = {}, []
        for name in self._mergeable:
            key = candidate.key(name)
            seen = before.get(name)
            if seen is None or seen[0] != key or seen[1] is not into[name]:
                self._merge(candidate, name, self._resident(name), into[name].detach())
                changed.append(name)
            after[name] = (key, into[name])
        self._applied = after
        return tuple(changed)

    def stream(self, merge: Merge) -> Iterator[tuple[str, Tensor]]:
        """Every tensor of the base in checkpoint order, merged or copied; holds one tensor at a time.

        Raises MergeError.
        """
        candidate = Candidate(merge, self._names, self._mergeable)
        for name in self._models[0].names:
            if name in self._statistics:
                models = self._load(name)
                out = torch.empty(models[0].shape, dtype=self._target(models[0]), device=self._device)
                self._merge(candidate, name, models, out)
                yield name, out.cpu()
            else:
                yield name, self._models[0].tensor(name)

    def _merge(self, candidate: Candidate, name: str, models: list[Tensor], out: Tensor) -> None:
        statistics = self._statistics[name]
        source = Source(name, self._names, models, seed=candidate.seed, statistics=statistics, workers=self._workers)
        count = candidate.merge(source, out)
        if count:
            dtype = str(out.dtype).removeprefix("torch.")
            hint = ": overflow? try dtype bfloat16 or float32" if out.dtype == torch.float16 else ""
            raise MergeError(f"merge produced {count} non-finite values in {name} (dtype {dtype}{hint})")

    def _load(self, name: str) -> list[Tensor]:
        models = [model.tensor(name) for model in self._models]
        for model, input_name in zip(models[1:], self._names, strict=True):
            if model.shape != models[0].shape:
                shapes = f"{tuple(model.shape)} in {input_name!r} and {tuple(models[0].shape)} in the base"
                raise MergeError(f"{name} has shape {shapes}.")
        return [model.to(self._device) for model in models]

    def _resident(self, name: str) -> list[Tensor]:
        if self._device.type == "cpu":
            return self._load(name)
        if name not in self._on_device:
            self._on_device[name] = self._load(name)
        return self._on_device[name]

    def _target(self, base: Tensor) -> torch.dtype:
        return self._dtype or base.dtype

    def _check_place(self, name: str, place: Tensor | None) -> None:
        if place is None:
            raise MergeError(f"The resident model has no tensor {name!r}.")
        base = self._models[0].tensor(name)
        wanted = (self._target(base), tuple(base.shape), self._device.type)
        found = (place.dtype, tuple(place.shape), place.device.type)
        if found != wanted or not place.is_contiguous():
            raise MergeError(
                f"{name}: the resident tensor must be {_shown(wanted)}, contiguous; it is {_shown(found)}."
            )


def _shown(place: tuple[torch.dtype, tuple[int, ...], str]) -> str:
    dtype, shape, device = place
    return f"{str(dtype).removeprefix('torch.')} of shape {shape} on {device}"
