"""Tiles: pieces of a tensor of all models that fit into the cache, the same for any number of threads."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from evomerge.merging.factors import Factors

#: Index of the base where inputs are named by index.
BASE = -1
#: Elements of a tile on the CPU: 1 MiB in float32. A few of them fit into the cache of a core, and an operation
#: takes longer than its call; 32768 was equally fast with one thread and slower with two.
TILE = 262144
#: Elements that torch sums without dividing them among threads, which would change the last bits of the result.
STEP = 16384
#: Elements of a piece that a compiled kernel works on in one thread: a millisecond, of which a call takes a hundredth.
PIECE = 4 * TILE

T = TypeVar("T")
Item = TypeVar("Item")


class Moments(Protocol):
    """Statistics of one model."""

    @property
    def kinds(self) -> frozenset[str]:
        """Available kinds."""

    def tensor(self, kind: str, name: str) -> Tensor | None:
        """Return the statistic of this kind ("fisher", "gram", ...) for a tensor, or None if there is none."""


class Models(Sequence[Tensor]):
    """The inputs' whole tensors for a kernel: float32, shaped, read on access, owned by the caller."""

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
    """Reusable memory for tiles: on the CPU a fresh allocation costs more than the work done in it."""

    def __init__(self) -> None:
        self._buffers: dict[Hashable, Tensor] = {}

    def get(self, key: Hashable, size: int, device: torch.device) -> Tensor:
        """Return memory for up to TILE float32 values, uninitialized; the same memory for the same key."""
        if device.type != "cpu" or size > TILE:
            return torch.empty(size, dtype=torch.float32, device=device)
        if key not in self._buffers:
            self._buffers[key] = torch.empty(TILE, dtype=torch.float32)
        return self._buffers[key][:size]


@dataclass(frozen=True)
class Tile:
    """The position of a kernel: elements [start, stop) of a flattened tensor, and the keys of its randomness."""

    tensor: str
    input_names: tuple[str, ...]
    seed: int
    start: int
    stop: int
    memory: Scratch = field(repr=False, compare=False)

    def scratch(self, key: Hashable, like: Tensor) -> Tensor:
        """Return float32 memory of the tile's size for a kernel's own use, valid until it requests `key` again."""
        return self.memory.get(("scratch", key), len(like), like.device)


class Workers:
    """Runs tiles one after the other; `threads` of torch share the work within each operation.

    Python threads would contend for the interpreter lock between such short operations: two were slower than one.
    Compiled kernels, which run outside of that lock, divide a tensor in `pieces` among Python threads instead.
    Work that is not on tiles (decompositions, matrix products) runs `alone`, since its bits depend on the threads.
    """

    def __init__(self, threads: int) -> None:
        if threads < 1:
            raise ValueError(f"A merge needs at least one thread; got {threads}.")
        self.memory = Scratch()
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads)  # starts a thread when one is needed

    def pieces(self, function: Callable[[int, int], T], size: int) -> list[T]:
        """Call function(start, stop), which releases the interpreter lock, for all pieces of `size` elements.

        Returns its results in order. The pieces are the same for any number of threads.
        """
        starts = range(0, size, PIECE)
        stops = [min(start + PIECE, size) for start in starts]
        run = map if self._threads == 1 or len(stops) < 2 else self._pool.map
        return list(run(function, starts, stops))

    def map(self, function: Callable[[Item], T], items: Sequence[Item]) -> list[T]:
        """Apply `function` to every item, in order."""
        with _torch_threads(self._threads), torch.no_grad():
            return [function(item) for item in items]

    def alone(self, function: Callable[[], T]) -> T:
        """Call `function` in one thread."""
        if torch.get_num_threads() == 1 and not torch.is_grad_enabled():
            return function()
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
    """Sum a tile's values in float64 in steps of a fixed size: the same for any number of threads."""
    steps = torch.split(values, STEP) if values.device.type == "cpu" else (values,)
    return sum(float(step.sum(dtype=torch.float64)) for step in steps)


def dot(a: Tensor, b: Tensor) -> float:
    """Return the dot product of two flat float32 tensors: the same for any number of threads.

    Summed in float32 over pieces of the size of a tile (64 tiles off the CPU), in float64 over the pieces.
    """
    size = TILE if a.device.type == "cpu" else 64 * TILE
    with _torch_threads(1):
        if len(a) <= size:
            return torch.dot(a, b).item()
        return sum(torch.dot(x, y).item() for x, y in zip(torch.split(a, size), torch.split(b, size), strict=True))


class TensorSource:
    """One tensor of all models that have it, whole or tile by tile, in float32.

    models: the base's tensor, then one per input, of one shape. cache: kept with the tensor between merges, for
    data that does not depend on coefficients (angles, histograms, decompositions); a method names its entries.
    moments: statistics of the base, then of each input, None for a model without. factors: input's index
    -> its change to the base as factors, or None.
    A tile returned by a method may be overwritten, and is valid until that model is read again.
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
        """Return the tiles in order: of fixed size on the CPU, the whole tensor elsewhere."""
        size = TILE if self._on_cpu else max(self.numel, 1)
        starts = range(0, self.numel, size)
        stops = (min(start + size, self.numel) for start in starts)
        return [
            Tile(self.tensor, self.input_names, self.seed, a, b, self._workers.memory)
            for a, b in zip(starts, stops, strict=True)
        ]

    @property
    def entire(self) -> Tile:
        """Return one tile of the whole tensor, for work that cannot be divided."""
        return Tile(self.tensor, self.input_names, self.seed, 0, self.numel, self._workers.memory)

    @property
    def device(self) -> torch.device:
        """Device of the models."""
        return self._shaped[0].device

    def whole(self, model: int) -> Tensor:
        """Return the whole tensor of an input, or of the base (-1), as stored; read-only."""
        return self._shaped[model + 1]

    def base(self, tile: Tile) -> Tensor:
        """Return the base's values: float32, flat."""
        return self._values(0, tile)

    def weights(self, index: int, tile: Tile) -> Tensor:
        """Return the values of input `index`: float32, flat."""
        return self._values(index + 1, tile)

    def deltas(self, index: int, tile: Tile, base: Tensor | None = None) -> Tensor:
        """Return input `index` minus the base: float32, flat."""
        base = self.base(tile) if base is None else base
        stored = self._stored(index + 1, tile)
        if stored.dtype != torch.float32:
            return self.weights(index, tile).sub_(base)
        return torch.sub(stored, base, out=self._workers.memory.get(index + 1, len(stored), stored.device))

    def moment(self, kind: str, model: int) -> Tensor | None:
        """Return a statistic of an input, or of the base (-1), for this tensor, as stored; read-only."""
        moments = self._moments[model + 1] if self._moments else None
        found = None if moments is None else moments.tensor(kind, self.tensor)
        return None if found is None else found.to(self.device)

    def factors(self, index: int) -> Factors | None:
        """Return input `index`'s low-rank change to the base as factors; None if it is not stored as such."""
        found = self._factors(index)
        return None if found is None else found.to(self.device)

    def kinds(self, model: int) -> frozenset[str]:
        """Return the kinds of statistics that an input, or the base (-1), has for some tensor."""
        moments = self._moments[model + 1] if self._moments else None
        return frozenset() if moments is None else moments.kinds

    def shaped(self, model: int) -> Tensor:
        """Return the whole tensor of an input, or of the base (-1), in float32 and its shape, as a copy."""
        return self._shaped[model + 1].to(torch.float32, copy=True)

    def alone(self, function: Callable[[], T]) -> T:
        """Call `function` in one thread, as required for anything but element-wise work on tiles."""
        return self._workers.alone(function)

    def pieces(self, function: Callable[[int, int], T]) -> list[T]:
        """Call a compiled kernel for all pieces (start, stop) of the flat tensor; return its results in order."""
        return self._workers.pieces(function, self.numel)

    def map(self, function: Callable[[Tile], T]) -> list[T]:
        """Apply `function` to every tile, in order, for a reduction."""
        return self._workers.map(function, self.tiles)

    @property
    def identical(self) -> bool:
        """Return whether all models have the same values here; read once, and usually decided by the first tile."""
        if "identical" not in self.cache:
            self.cache["identical"] = all(self._identical(tile) for tile in self.tiles)
        return bool(self.cache["identical"])

    def _identical(self, tile: Tile) -> bool:
        base = self.base(tile)
        return all(torch.equal(base, self.weights(index, tile)) for index in range(len(self.input_names)))

    def _values(self, model: int, tile: Tile) -> Tensor:
        values = self._stored(model, tile)
        return self._workers.memory.get(model, len(values), values.device).copy_(values)

    def _stored(self, model: int, tile: Tile) -> Tensor:
        if model not in self._flat:
            self._flat[model] = self._shaped[model].reshape(-1)
        return self._flat[model][tile.start : tile.stop]
