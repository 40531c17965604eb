"""EMR: elect, mask and rescale (Huang et al., 2024). https://arxiv.org/abs/2405.17461."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Literal

import torch
from torch import Tensor

from evomerge.merging.kernels.combination import normalized
from evomerge.merging.method import BASE, Bounds, Combination, CopyOf, PerInput, Shared, merge_method
from evomerge.merging.tiles import TensorSource, Tile, total

Weight = Annotated[PerInput, Bounds(1.0, 0.0, 1.0)]
Scale = Annotated[Shared, Bounds(1.0, 0.3, 2.0)]
#: "paper": |delta| over |masked unified delta|, over the whole model. "official": both as sums of the tensors' means,
#: so that small tensors have more weight, as in the authors' code. "none": 1.
Rescale = Literal["paper", "official", "none"]
_Sizes = list[tuple[float, float]]


def _rescalers(sources: Iterable[TensorSource], *, rescale: Rescale = "paper") -> Mapping[str, float]:
    """Return input name -> the rescaling factor of its part of the unified delta."""
    sums: dict[str, tuple[float, float]] = {}
    for source in sources if rescale != "none" else ():
        if "emr" not in source.cache:
            source.cache["emr"] = _sizes(source)
        divisor = max(source.numel, 1) if rescale == "official" else 1
        for name, (own, unified) in zip(source.input_names, source.cache["emr"], strict=True):
            before = sums.get(name, (0.0, 0.0))
            sums[name] = (before[0] + own / divisor, before[1] + unified / divisor)
    return {name: own / unified if unified else 1.0 for name, (own, unified) in sums.items()}


def _sizes(source: TensorSource) -> _Sizes:
    """Return for every input the sums of |delta| and of |masked unified delta|."""

    def measure(tile: Tile) -> list[tuple[float, float]]:
        base = source.base(tile)
        deltas = [source.deltas(index, tile, base) for index in range(len(source.input_names))]
        own = [total(delta.abs()) for delta in deltas]
        largest, _ = _unify(deltas, tile)
        return [(size, total(delta.sign_().mul_(largest))) for size, delta in zip(own, deltas, strict=True)]

    tiles = source.map(measure)
    return [
        (sum(tile[index][0] for tile in tiles), sum(tile[index][1] for tile in tiles))
        for index in range(len(source.input_names))
    ]


def _unify(deltas: Sequence[Tensor], tile: Tile) -> tuple[Tensor, Tensor]:
    """Return magnitude and sign of the unified delta; each delta keeps its magnitude where it has that sign."""
    sign = tile.scratch("sign", deltas[0]).zero_()
    for delta in deltas:
        sign.add_(delta)
    torch.gt(sign, 0, out=sign).mul_(2).sub_(1)
    largest = tile.scratch("largest", sign).zero_()
    for delta in deltas:
        torch.maximum(largest, delta.mul_(sign).relu_(), out=largest)
    return largest, sign


def _coefficients(
    source: TensorSource, *, weight: Weight, scale: Scale, normalize: bool = True, surveyed: Mapping[str, float]
) -> CopyOf | tuple[float, ...]:
    weights = normalized(weight) if normalize else weight
    pairs = zip(source.input_names, weights, strict=True)
    coefficients = tuple(scale * value * surveyed.get(name, 1.0) for name, value in pairs)
    return coefficients if any(coefficients) else CopyOf(BASE)


def _of_tasks(deltas: Sequence[Tensor], *, masks: bool = True, tile: Tile) -> Iterator[Tensor]:
    """Yield the delta of the model of each task."""
    largest, sign = _unify(deltas, tile)
    unified = sign.mul_(largest)
    for delta in deltas:
        yield delta.sign_().mul_(unified) if masks else unified


@merge_method(
    operates_on="deltas",
    reference="https://arxiv.org/abs/2405.17461",
    prepare=_coefficients,
    survey=_rescalers,
    linear_in=("weight", "scale"),
    gradient=Combination(("weight", "scale"), terms=_of_tasks),
)
def emr(deltas: Sequence[Tensor], *, masks: bool = True, prepared: tuple[float, ...], tile: Tile) -> Tensor:
    """Weighted average of EMR's models of the individual tasks; a one-hot weight gives that task's model.

    All share one unified delta: each element has the sign of the deltas' sum (negative for a sum of zero) and the
    largest magnitude among the deltas with that sign. A task's model keeps the elements with its own delta's sign
    (masks), multiplied by a rescaler that restores the magnitude of its own delta. masks: false with rescale: none adds
    the unified delta itself to the base, a merge by largest magnitude.

    compat: rescale "official" sums means per tensor, like the authors' code; "paper" sums over the whole model.
    """
    largest, sign = _unify(deltas, tile)
    unified = sign.mul_(largest)
    if not masks:
        return unified.mul_(sum(prepared))
    share = tile.scratch("share", unified).zero_()
    for delta, coefficient in zip(deltas, prepared, strict=True):
        share.add_(delta.sign_(), alpha=coefficient)
    return unified.mul_(share)
