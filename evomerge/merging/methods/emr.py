"""EMR: elect, mask and rescale (Huang et al., 2024). https://arxiv.org/abs/2405.17461."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Literal

import torch
from torch import Tensor

from evomerge.merging.kernels.combination import normalized
from evomerge.merging.method import BASE, Bounds, CopyOf, PerInput, Shared, merge_method
from evomerge.merging.tiles import TensorSource, Tile, total

Weight = Annotated[PerInput, Bounds(1.0, 0.0, 1.0)]
Scale = Annotated[Shared, Bounds(1.0, 0.3, 2.0)]
#: "paper": of the whole model, |delta| over |masked unified delta|. "official": both as sums of the tensors' means,
#: so that small tensors weigh more, as in the authors' code. "none": 1.
Rescale = Literal["paper", "official", "none"]
_Sizes = list[tuple[float, float]]


def _rescalers(sources: Iterable[TensorSource], *, rescale: Rescale = "paper") -> Mapping[str, float]:
    """Input name -> what its share of the unified delta is multiplied by."""
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
    """For every input the sums of |delta| and of |masked unified delta|."""

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
    """Magnitude and sign of the unified delta; leaves of each delta the magnitude where it has that sign, else 0."""
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


@merge_method(
    operates_on="deltas",
    reference="https://arxiv.org/abs/2405.17461",
    prepare=_coefficients,
    survey=_rescalers,
    linear_in=("weight", "scale"),
)
def emr(deltas: Sequence[Tensor], *, masks: bool = True, prepared: tuple[float, ...], tile: Tile) -> Tensor:
    """Weighted average of EMR's models of the single tasks; a one-hot weight gives the one of that task.

    All share one unified delta: at each element the sign of the deltas' sum (a sum of zero is negative) and the
    largest magnitude among those that have it. A task's model keeps of it what has its own delta's sign (masks),
    times a rescaler that gives it the size of its own delta. masks: false, rescale: none is the unified delta itself
    on the base, a merge by the largest magnitude.

    compat: rescale "official" sums up means per tensor, as the authors' code does; "paper" sums up the whole model.
    """
    largest, sign = _unify(deltas, tile)
    unified = sign.mul_(largest)
    if not masks:
        return unified.mul_(sum(prepared))
    share = tile.scratch("share", unified).zero_()
    for delta, coefficient in zip(deltas, prepared, strict=True):
        share.add_(delta.sign_(), alpha=coefficient)
    return unified.mul_(share)
