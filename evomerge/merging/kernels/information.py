"""Averages weighted by Fisher information: its scale over the whole model, its floor, and the inputs involved."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

from evomerge.merging.kernels.combination import normalized, sole_input
from evomerge.merging.method import Bounds, CopyOf, MethodError, PerInput
from evomerge.merging.moments import input_moments
from evomerge.merging.tiles import TensorSource, Tile, total

Weight = Annotated[PerInput, Bounds(1.0, 0.0, 1.0)]


@dataclass(frozen=True)
class Scale:
    """The scale of one model's Fisher information over all tensors: root of the sum of squares, and mean."""

    norm: float
    mean: float


@dataclass(frozen=True)
class Average:
    """The average of a tensor: coefficients, with the Fisher information of each input, flat, if available."""

    coefficients: tuple[float, ...]
    floors: tuple[float, ...] = ()
    fishers: tuple[Tensor, ...] = ()


def scales(
    sources: Iterable[TensorSource], *, normalize: bool = True, relative_floor: bool = False
) -> dict[str, Scale]:
    """Return the scale of each input's Fisher information, by name, if an option requires it.

    Raises MethodError if it is not finite.
    """
    if not (normalize or relative_floor):
        return {}
    sums: dict[str, list[float]] = {}
    for source in sources:
        if "fisher" not in source.cache:
            fishers = input_moments(source, "fisher", source.shape) or ()
            source.cache["fisher"] = {
                name: _sums(source, moment.reshape(-1))
                for name, moment in zip(source.input_names, fishers, strict=bool(fishers))
            }
        for name, found in source.cache["fisher"].items():
            sums[name] = [a + b for a, b in zip(sums.get(name, [0.0, 0.0, 0.0]), found, strict=True)]
    for name, (squares, _, _) in sums.items():
        if not math.isfinite(squares):
            raise MethodError(f"The Fisher information of {name} is not finite: collect its statistics again.")
    return {name: Scale(math.sqrt(squares), plain / max(n, 1)) for name, (squares, plain, n) in sums.items()}


def _sums(source: TensorSource, fisher: Tensor) -> tuple[float, float, float]:
    """Return the sum of squares, sum, and number of values of one tensor."""

    def of_tile(tile: Tile) -> tuple[float, float]:
        values = fisher[tile.start : tile.stop].double()
        return total(values.square()), total(values)

    parts = source.map(of_tile)
    return sum(part[0] for part in parts), sum(part[1] for part in parts), float(source.numel)


def average(
    source: TensorSource,
    *,
    weight: Weight,
    normalize: bool = True,
    floor: float = 1e-6,
    relative_floor: bool = False,
    target: str = "",
    surveyed: Mapping[str, Scale],
) -> CopyOf | Average:
    """Prepare the average of one tensor; options as in the merge method `fisher`. Raises MethodError."""
    if min(weight) < 0 or not any(weight) or not floor > 0:
        raise MethodError(
            f"{source.tensor}: fisher needs non-negative weights, not all zero, and a positive floor; they are "
            f"{list(weight)} and {floor}."
        )
    shares = normalized(weight)
    sole = 0 if source.identical else sole_input(shares)
    if sole is not None:
        return CopyOf(sole)
    fishers = input_moments(source, "fisher", source.shape)
    if fishers is None:
        return Average(shares)
    names = source.input_names
    found = [surveyed.get(name, Scale(1.0, 1.0)) for name in names]
    coefficients = [w / (s.norm if normalize and s.norm else 1.0) for w, s in zip(shares, found, strict=True)]
    floors = [floor * (s.mean if relative_floor and s.mean else 1.0) for s in found]
    if target in names and weight[names.index(target)]:
        floors = [value if name == target else 0.0 for name, value in zip(names, floors, strict=True)]
    largest = max(coefficients)  # only their ratios matter; keeps them in the range of float32
    return Average(
        tuple(c / largest for c in coefficients), tuple(floors), tuple(fisher.reshape(-1) for fisher in fishers)
    )
