"""ComPEFT: a delta compressed to signs times one number (Yadav et al., 2023). https://arxiv.org/abs/2311.13171."""

import math
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from operator import itemgetter
from typing import Annotated, Literal

from torch import Tensor

from evomerge.merging.kernels.combination import combine, one_model
from evomerge.merging.kernels.remembered import remembered
from evomerge.merging.kernels.sparsify import Cut, trim
from evomerge.merging.kernels.thresholds import Largest
from evomerge.merging.method import BASE, SHARE, Bounds, Combination, CopyOf, PerInput, Shared, merge_method
from evomerge.merging.tiles import TensorSource, Tile, total

#: The paper's alpha times the merge weight. Published: 0.5 to 10, larger for fewer kept elements.
Weight = Annotated[PerInput, Bounds(1.0, 0.0, 4.0)]
Density = Annotated[PerInput, Bounds(0.2, 0.05, 0.5, allowed=SHARE)]
#: The same direction as scaling all weights, hence not searched.
Scale = Annotated[Shared, Bounds(1.0, 1.0, 1.0)]
Values = Literal["std", "stc", "prune"]

Prepared = tuple[tuple[float, ...], tuple[Cut | None, ...]]


class _Deltas:
    """Selections and magnitudes for whole deltas."""

    def __init__(self, sources: Iterable[TensorSource]) -> None:
        self._sources = sources
        self.largest = Largest(sources)

    def size(self, name: str, density: float, values: Values) -> float:
        """Return the factor for the signs of input `name`."""
        if values == "prune":
            return 1.0
        make, key = (self._deviation, 0.0) if values == "std" else (partial(self._mean_kept, density), density)
        return remembered(self.largest.found, values, (name, key), partial(make, name), keep=64)

    def _deviation(self, name: str) -> float:
        """Return the unbiased standard deviation; 0 for a single element."""
        numel, sums, squares = self.largest.numel[name], 0.0, 0.0
        for source, index in self._having(name):
            for tile in source.tiles:
                delta = source.deltas(index, tile)
                sums += total(delta)
                squares += total(delta.double().square_())
        return math.sqrt(max(squares - sums * sums / numel, 0.0) / (numel - 1)) if numel > 1 else 0.0

    def _mean_kept(self, density: float, name: str) -> float:
        sums = counts = 0.0
        for source, index in self._having(name):
            cut = self.largest.cut(source, name, density)
            for tile in source.tiles:
                kept = trim(source.deltas(index, tile), cut, tile).abs_()
                sums += total(kept)
                counts += total(kept.sign_())
        return sums / counts if counts else 0.0

    def _having(self, name: str) -> Iterator[tuple[TensorSource, int]]:
        for source in self._sources:
            if name in source.input_names:
                yield source, source.input_names.index(name)


def _prepared(
    source: TensorSource, *, weight: Weight, density: Density, scale: Scale, values: Values = "std", surveyed: _Deltas
) -> CopyOf | Prepared:
    weights = tuple(scale * value for value in weight)
    if not any(weights):
        return CopyOf(BASE)
    cuts = surveyed.largest.cuts(source, density)
    if values == "prune" and cuts == (None,) * len(cuts):
        return one_model(weights) or (weights, cuts)
    sizes = [surveyed.size(name, share, values) for name, share in zip(source.input_names, density, strict=True)]
    return tuple(value * size for value, size in zip(weights, sizes, strict=True)), cuts


def _compressed(deltas: Sequence[Tensor], *, values: Values = "std", prepared: Prepared, tile: Tile) -> list[Tensor]:
    kept = [trim(delta, cut, tile) for delta, cut in zip(deltas, prepared[1], strict=True)]
    return kept if values == "prune" else [delta.sign_() for delta in kept]


@merge_method(
    operates_on="deltas",
    reference="https://arxiv.org/abs/2311.13171",
    prepare=_prepared,
    survey=_Deltas,
    linear_in=("weight", "scale"),
    gradient=Combination(("weight", "scale"), terms=_compressed, coefficients=itemgetter(0)),
)
def compeft(deltas: Sequence[Tensor], *, values: Values = "std", prepared: Prepared, tile: Tile) -> Tensor:
    """Base + scale * sum of weight times compressed delta: the signs of its largest elements times one number.

    The `density` largest elements are those of the whole model.
    values: "std" uses the standard deviation of the whole delta, "stc" the mean magnitude of the kept elements
    (sparse ternary compression); "prune" keeps the elements unchanged. The authors' code uses the signed mean
    for "stc", which can invert the whole delta; this is unsupported.
    """
    return combine(_compressed(deltas, values=values, prepared=prepared, tile=tile), prepared[0])
