"""Tiles: a tensor of all models in pieces that stay in the cache, the same for every number of threads."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from evomerge.merging.factors import Factors

#: Stands for the base where an input is named by its index.
BASE = -1
#: Elements of a tile on the CPU: 1 MiB in float32. A few of them stay in the cache of a core, and an operation
#: takes longer than calling it; 32768 was as fast with one thread and slower with two.
TILE = 262144
#: Elements that torch sums up without dividing them among threads, which would change the result's last bits.
STEP = 16384

T = TypeVar("T")
Item = TypeVar("Item")


class Moments(Protocol):
    """Statistics from data of one model."""

    @property
    def kinds(self) -> frozenset[str]:
        """The kinds that there are."""

    def tensor(self, kind: str, name: str) -> Tensor | None:
        """The statistic of this kind ("fisher", "gram", ...) for a tensor, or None where there is none."""


class Models(Sequence[Tensor]):
    """The inputs' whole tensors for a kernel: float32, in shape, read when they are asked for, the caller's own."""

    def __init__(self, source: "TensorSource", *, deltas: bool) -> None:
        self._source = source
        self._deltas = deltas

    def __len__(self) -> int:
        return len(self._source.input_names)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        values = self._source.shaped(index % len(self))
        return values.sub_(self._source.whole(BASE)) if self._deltas else values


class Scratch:
    """Memory for tiles, kept: on the CPU a fresh allocation costs more than what is done in it."""

    def __init__(self) -> None:
        self._buffers: dict[Hashable, Tensor] = {}

    def get(self, key: Hashable, size: int, device: torch.device) -> Tensor:
        """Memory for up to TILE float32 values, their content undefined; the same one for the same key."""
        if device.type != "cpu" or size > TILE:
            return torch.empty(size, dtype=torch.float32, device=device)
        if key not in self._buffers:
            self._buffers[key] = torch.empty(TILE, dtype=torch.float32)
        return self._buffers[key][:size]


@dataclass(frozen=True)
class Tile:
    """Where a kernel stands: elements [start, stop) of a flattened tensor, and the keys of its randomness."""

    tensor: str
    input_names: tuple[str, ...]
    seed: int
    start: int
    stop: int
    memory: Scratch = field(repr=False, compare=False)

    def scratch(self, key: Hashable, like: Tensor) -> Tensor:
        """Float32 memory of the tile's size for a kernel's own use, valid until it asks for `key` again."""
        return self.memory.get(("scratch", key), len(like), like.device)


class Workers:
    """Runs tiles one after the other; `threads` of torch's own share the work inside of each operation.

    Threads of Python's would fight for its lock between operations this short: two of them took longer than one.
    What is no work on tiles (decompositions, products of matrices) runs `alone`: its bits depend on the threads.
    """

    def __init__(self, threads: int) -> None:
        if threads < 1:
            raise ValueError(f"A merge needs at least one thread; it was given {threads}.")
        self.memory = Scratch()
        self._threads = threads

    def map(self, function: Callable[[Item], T], items: Sequence[Item]) -> list[T]:
        """`function` of every item, in order."""
        with _torch_threads(self._threads), torch.no_grad():
            return [function(item) for item in items]

    def alone(self, function: Callable[[], T]) -> T:
        """`function()` in one thread."""
        with _torch_threads(1), torch.no_grad():
            return function()


@contextmanager
def _torch_threads(wanted: int) -> Iterator[None]:
    before = torch.get_num_threads()
    if before == wanted:
        yield
        return
    torch.set_num_threads(wanted)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def total(values: Tensor) -> float:
    """The sum of a tile's values in float64, the same for every number of threads: in steps of a fixed size."""
    steps = torch.split(values, STEP) if values.device.type == "cpu" else (values,)
    return sum(float(step.sum(dtype=torch.float64)) for step in steps)


class TensorSource:
    """One tensor of all models that have it, whole or tile by tile, in float32.

    models: the base's tensor, then one per input, of one shape. cache: kept with the tensor between merges, for
    what depends on no coefficient (angles, histograms, decompositions); a method names its entries.
    moments: statistics from data of the base, then of each input, None for a model without. factors: input's index
    -> its change to the base as factors, or None.
    A tile that was read is the caller's to overwrite, and valid until that model is read again.
    """

    def __init__(
        self,
        tensor: str,
        input_names: tuple[str, ...],
        models: Sequence[Tensor],
        *,
        seed: int,
        cache: dict[Hashable, Any],
        workers: Workers,
        moments: Sequence[Moments | None] = (),
        factors: Callable[[int], Factors | None] = lambda _: None,
    ) -> None:
        self.tensor = tensor
        self.input_names = input_names
        self.seed = seed
        self.cache = cache
        self.numel = models[0].numel()
        self.shape = models[0].shape
        self._shaped = models
        self._flat: dict[int, Tensor] = {}
        self._workers = workers
        self._moments = moments
        self._factors = factors
        self._on_cpu = models[0].device.type == "cpu"

    @cached_property
    def tiles(self) -> list[Tile]:
        """The tiles in order: fixed on the CPU, the whole tensor elsewhere."""
        size = TILE if self._on_cpu else max(self.numel, 1)
        starts = range(0, self.numel, size)
        stops = (min(start + size, self.numel) for start in starts)
        return [
            Tile(self.tensor, self.input_names, self.seed, a, b, self._workers.memory)
            for a, b in zip(starts, stops, strict=True)
        ]

    @property
    def entire(self) -> Tile:
        """One tile of the whole tensor, for work that cannot be divided."""
        return Tile(self.tensor, self.input_names, self.seed, 0, self.numel, self._workers.memory)

    @property
    def device(self) -> torch.device:
        """Where the models are."""
        return self._shaped[0].device

    def whole(self, model: int) -> Tensor:
        """The whole tensor of an input, or of the base (-1), as it is stored; to be read only."""
        return self._shaped[model + 1]

    def base(self, tile: Tile) -> Tensor:
        """The base's values: float32, flat."""
        return self._values(0, tile)

    def weights(self, index: int, tile: Tile) -> Tensor:
        """The values of input `index`: float32, flat."""
        return self._values(index + 1, tile)

    def deltas(self, index: int, tile: Tile, base: Tensor | None = None) -> Tensor:
        """Input `index` minus the base: float32, flat."""
        return self.weights(index, tile).sub_(self.base(tile) if base is None else base)

    def moment(self, kind: str, model: int) -> Tensor | None:
        """A statistic from data of an input, or of the base (-1), for this tensor, as it is stored; to be read only."""
        moments = self._moments[model + 1] if self._moments else None
        found = None if moments is None else moments.tensor(kind, self.tensor)
        return None if found is None else found.to(self.device)

    def factors(self, index: int) -> Factors | None:
        """Input `index`'s change to the base where it is one of low rank, held as factors; None where it is not."""
        found = self._factors(index)
        return None if found is None else found.to(self.device)

    def kinds(self, model: int) -> frozenset[str]:
        """The kinds of statistics from data that an input, or the base (-1), brings for some tensor."""
        moments = self._moments[model + 1] if self._moments else None
        return frozenset() if moments is None else moments.kinds

    def shaped(self, model: int) -> Tensor:
        """The whole tensor of an input, or of the base (-1), in float32 and its shape: a copy, the caller's own."""
        return self._shaped[model + 1].to(torch.float32, copy=True)

    def alone(self, function: Callable[[], T]) -> T:
        """`function()` in one thread, as everything must run that is no element-wise work on tiles."""
        return self._workers.alone(function)

    def map(self, function: Callable[[Tile], T]) -> list[T]:
        """`function` of every tile, in order: what a reduction starts from."""
        return self._workers.map(function, self.tiles)

    @property
    def identical(self) -> bool:
        """Whether all models hold the same values here; read once, and mostly decided by the first tile."""
        if "identical" not in self.cache:
            self.cache["identical"] = all(self._identical(tile) for tile in self.tiles)
        return bool(self.cache["identical"])

    def _identical(self, tile: Tile) -> bool:
        base = self.base(tile)
        return all(torch.equal(base, self.weights(index, tile)) for index in range(len(self.input_names)))

    def _values(self, model: int, tile: Tile) -> Tensor:
        if model not in self._flat:
            self._flat[model] = self._shaped[model].reshape(-1)
        values = self._flat[model][tile.start : tile.stop]
        return self._workers.memory.get(model, len(values), values.device).copy_(values)
