"""Order statistics over many tensors, from histograms: nothing larger than a tile is sorted or held in memory.

Two passes find any number of them: one counts the leading 16 bits of every value (cached with the tensor), the
other the trailing 16 bits of the values that share the leading ones with a requested statistic.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evomerge.merging.kernels.remembered import remembered
from evomerge.merging.kernels.sparsify import Cut
from evomerge.merging.tiles import TensorSource, Tile

#: Returns one number per element of a tile, a tensor for every input of the source; each in its own memory, which
#: is overwritten. The order of infinite and missing values is unspecified.
Values = Callable[[TensorSource, Tile], Sequence[Tensor]]

_MAGNITUDE = 0x7FFFFFFF
_HALF = 16
_BUCKETS = 1 << _HALF
#: A search returns to few values of a parameter, a random walk to none; histograms are large.
_VALUES_KEPT, _ENDS_KEPT, _HISTOGRAMS_KEPT = 256, 16, 2

Counts = NDArray[np.int64]


def magnitudes(source: TensorSource, tile: Tile) -> Sequence[Tensor]:
    """Return the magnitudes of every delta, the values to rank for finding the largest elements."""
    base = source.base(tile)
    return [source.deltas(index, tile, base).abs_() for index in range(len(source.input_names))]


class Ranked(NamedTuple):
    """A value, and the number of elements smaller than it and equal to it."""

    value: float
    smaller: int
    equal: int


class Ranking:
    """The k-th smallest of one number per element and input, over all the tensors of `sources`.

    `sources` yields the same tensors each time it is iterated over. key: identifies the values and everything they
    depend on; under it, histograms are cached with their tensors, and results with the first of them.
    Anything not known yet costs one pass over all the tensors, however many ranks are requested at once.
    """

    def __init__(self, sources: Iterable[TensorSource], key: Hashable, values: Values) -> None:
        self._sources = sources
        self._key = key
        self._values = values

    @cached_property
    def numel(self) -> dict[str, int]:
        """Return input name -> its number of elements in these tensors. Inputs in the order of their first tensor."""
        counts: dict[str, int] = {}
        for source in self._sources:
            for name in source.input_names:
                counts[name] = counts.get(name, 0) + source.numel
        return counts

    def at(self, places: Sequence[tuple[str, int]]) -> list[Ranked]:
        """Return for each (input name, k) the k-th smallest value, counted from 0; all in one pass, or in none.

        Raises IndexError for a k beyond an input's number of elements.
        """
        for name, k in places:
            if not 0 <= k < self.numel.get(name, 0):
                raise IndexError(f"Input {name!r} has {self.numel.get(name, 0)} elements; got k = {k}.")
        known = self.found.get("values", {})
        missing = [place for place in dict.fromkeys(places) if place not in known]
        answers = {**{place: known[place] for place in places if place in known}, **self._search(missing)}
        for place in missing:
            remembered(self.found, "values", place, partial(answers.__getitem__, place), keep=_VALUES_KEPT)
        return [answers[place] for place in places]

    @cached_property
    def found(self) -> dict[Hashable, Any]:
        """Return the results for the whole model, cached with the first tensor."""
        first = next(iter(self._sources), None)
        return {} if first is None else first.cache.setdefault(("ranking", self._key), {})

    @cached_property
    def _leading(self) -> dict[str, Counts]:
        """Return input name -> number of values in each bucket."""
        totals = {name: np.zeros(_BUCKETS, dtype=np.int64) for name in self.numel}
        for source in self._sources:
            make = partial(self._histograms, source)
            made = remembered(source.cache, "histograms", self._key, make, keep=_HISTOGRAMS_KEPT)
            for name, (buckets, counts) in zip(source.input_names, made, strict=True):
                totals[name][buckets] += counts
        return totals

    def _histograms(self, source: TensorSource) -> list[tuple[NDArray[np.uint16], Counts]]:
        counts = np.zeros((len(source.input_names), _BUCKETS), dtype=np.int64)

        def count(tile: Tile) -> None:
            for row, values in zip(counts, self._values(source, tile), strict=True):
                buckets = _ordered(values).bitwise_right_shift_(_HALF).add_(_BUCKETS // 2)
                row += torch.bincount(buckets, minlength=_BUCKETS).cpu().numpy()

        source.map(count)
        return [(np.flatnonzero(row).astype(np.uint16), row[row > 0]) for row in counts]

    def _search(self, places: Sequence[tuple[str, int]]) -> dict[tuple[str, int], Ranked]:
        """Return the values at these ranks, by searching the buckets that they are in."""
        if not places:
            return {}
        up_to = {name: counts.cumsum() for name, counts in self._leading.items()}
        bucket = {(name, k): int(np.searchsorted(up_to[name], k, side="right")) for name, k in places}
        trailing = {(name, bucket[name, k]): np.zeros(_BUCKETS, dtype=np.int64) for name, k in places}
        for source in self._sources:
            self._count_inside(source, trailing)
        answers = {}
        for name, k in places:
            high = bucket[name, k]
            smaller = int(up_to[name][high] - self._leading[name][high])
            inside = trailing[name, high]
            low = int(np.searchsorted(inside.cumsum(), k - smaller, side="right"))
            value = _value((high - _BUCKETS // 2 << _HALF) + low)
            answers[name, k] = Ranked(value, smaller + int(inside[:low].sum()), int(inside[low]))
        return answers

    def _count_inside(self, source: TensorSource, trailing: dict[tuple[str, int], Counts]) -> None:
        wanted = [[bucket for other, bucket in trailing if other == name] for name in source.input_names]

        def count(tile: Tile) -> None:
            for name, buckets, values in zip(source.input_names, wanted, self._values(source, tile), strict=True):
                keys = _ordered(values).cpu().numpy()
                leading = (keys >> _HALF) + _BUCKETS // 2
                for bucket in buckets:
                    inside = keys[leading == bucket] & _BUCKETS - 1
                    trailing[name, bucket] += np.bincount(inside, minlength=_BUCKETS)

        if any(wanted):
            source.map(count)


class Largest:
    """The elements of every delta whose magnitudes are the largest of the whole model.

    The number is exact: among equal magnitudes those of the first tensor, and in it of the lowest index, are kept.
    """

    def __init__(self, sources: Iterable[TensorSource]) -> None:
        self._sources = sources
        self._ranking = Ranking(sources, "magnitudes", magnitudes)

    @property
    def numel(self) -> dict[str, int]:
        """Return input name -> its number of elements in the whole model."""
        return self._ranking.numel

    @property
    def found(self) -> dict[Hashable, Any]:
        """Return the results for the whole model, cached between merges."""
        return self._ranking.found

    def cuts(self, source: TensorSource, density: Sequence[float]) -> tuple[Cut | None, ...]:
        """Return for every input (n_inputs) the cut that keeps the tensor's part of its int(density * numel) + 1
        largest.

        The extra 1 is that of TIES' reference code; densities of 0 and 1 keep nothing and everything.
        """
        asked = list(zip(source.input_names, density, strict=True))
        counts = [(name, self._count(name, share)) for name, share in asked]
        self._ranking.at([self._place(name, count) for name, count in counts if 0 < count < self.numel[name]])
        return tuple(self.cut(source, name, share) for name, share in asked)

    def _count(self, name: str, share: float) -> int:
        return 0 if share == 0 else min(int(self.numel[name] * share) + 1, self.numel[name])

    def _place(self, name: str, count: int) -> tuple[str, int]:
        return name, self.numel[name] - count

    def cut(self, source: TensorSource, name: str, density: float) -> Cut | None:
        """Return the cut for one input."""
        count = self._count(name, density)
        if count in (0, self.numel[name]):
            return None if count else Cut(float("inf"), 0)
        place = self._place(name, count)
        [found] = self._ranking.at([place])
        room = found.smaller + found.equal - place[1]
        if room == found.equal:
            return Cut(found.value, source.numel)
        make = partial(self._ends, name, found.value, room)
        ends = remembered(self._ranking.found, "ends", (name, count), make, keep=_ENDS_KEPT)
        return Cut(found.value, ends.get(source.tensor, 0))

    def _ends(self, name: str, threshold: float, room: int) -> dict[str, int]:
        """Return tensor -> index before which elements equal to the threshold are kept, `room` elements in total."""
        ends = {}
        for source in self._sources:
            if not room:
                break
            if name in source.input_names:
                ends[source.tensor], room = self._end(source, name, threshold, room)
        return ends

    def _end(self, source: TensorSource, name: str, threshold: float, room: int) -> tuple[int, int]:
        index = source.input_names.index(name)
        for tile in source.tiles:
            places = torch.nonzero(source.deltas(index, tile).abs_() == threshold).flatten()
            if room <= len(places):
                return tile.start + int(places[room - 1]) + 1, 0
            room -= len(places)
        return source.numel, room


def _ordered(values: Tensor) -> Tensor:
    """Convert floats in place to integers with the same order."""
    bits = values.view(torch.int32)
    return bits.bitwise_xor_(torch.bitwise_right_shift(bits, 31).bitwise_and_(_MAGNITUDE))


def _value(key: int) -> float:
    """Return the float of such an integer."""
    bits = np.int32(key ^ (key >> 31 & _MAGNITUDE))
    return float(bits.view(np.float32))
