"""NearSwap (alchemonaut, 2024): toward another model by at most t. https://huggingface.co/alchemonaut/QuartetAnemoi-70B-t0.0001."""

from collections.abc import Mapping, Sequence
from typing import Annotated

import torch
from torch import Tensor

from evomerge.merging.method import BASE, Bounds, Contraction, CopyOf, MethodError, Shared, merge_method
from evomerge.merging.tiles import TensorSource, Tile, dot

#: In units of the weights.
T = Annotated[Shared, Bounds(1e-3, 1e-5, 1e-2)]


def _exact(source: TensorSource, *, t: T) -> CopyOf | None:
    if t < 0:
        raise MethodError(f"{source.tensor}: t, the distance that a weight may move, must be at least 0; it is {t}.")
    return CopyOf(BASE) if t == 0 or source.identical else None


def _slopes(weights: Sequence[Tensor], gradient: Tensor, *, base: Tensor, t: T) -> Mapping[str, float]:
    away = weights[0].sub_(base)
    # hardshrink zeroes what is at most t away: there the result is the other model.
    return {"t": dot(gradient, torch.hardshrink(away, t).sign_())}


@merge_method(
    operates_on="weights",
    reference="https://huggingface.co/alchemonaut/QuartetAnemoi-70B-t0.0001",
    prepare=_exact,
    gradient=Contraction(("t",), _slopes),
    max_inputs=1,
)
def nearswap(weights: Sequence[Tensor], *, base: Tensor, t: T, tile: Tile) -> Tensor:
    """The other model where it is at most `t` away from the base, else the base moved toward it by `t`.

    mergekit treats distances below 1e-6 as 1e-6, which matters only if t is smaller too.
    """
    lowest = torch.sub(base, t, out=tile.scratch("lowest", base))
    highest = torch.add(base, t, out=tile.scratch("highest", base))
    return torch.clamp(weights[0], lowest, highest, out=weights[0])
