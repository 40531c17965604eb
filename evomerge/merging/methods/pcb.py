"""PCB: competition of parameters within and between models (Du et al., 2024). https://arxiv.org/abs/2410.02396."""

from collections.abc import Iterable, Sequence
from typing import Annotated, Literal

import torch
from torch import Tensor

from evomerge.merging.kernels.thresholds import Ranking, magnitudes
from evomerge.merging.method import BASE, SHARE, Bounds, CopyOf, MethodError, PerInput, Shared, merge_method
from evomerge.merging.tiles import TensorSource, Tile

Weight = Annotated[PerInput, Bounds(1.0, 0.8, 1.3)]
Density = Annotated[PerInput, Bounds(0.1, 0.05, 0.2, allowed=SHARE)]
#: Fraction of the elements whose magnitude is clipped, at either end.
Clip = Annotated[Shared, Bounds(1e-4, 1e-4, 1e-4)]
Compat = Literal["official", "vision", "vision_es"]
Limits = tuple[float, float]
_LEAST = 1e-12


class _Competition:
    """Clipping limits of every input's delta over the whole model, and the ranking of its elements."""

    def __init__(self, sources: Iterable[TensorSource], clip: float, compat: Compat) -> None:
        self._compat = compat
        sizes = Ranking(sources, "magnitudes", magnitudes)
        places = [
            (name, place)
            for name, numel in sizes.numel.items()
            if numel
            for place in (int(numel * clip), max(int(numel * (1 - clip) - 1), 0))
        ]
        values = [found.value for found in sizes.at(places)]
        pairs = zip(places[::2], values[::2], values[1::2], strict=True)
        self.limits: dict[str, Limits] = {name: (low, max(low, high)) for (name, _), low, high in pairs}
        self._balances = Ranking(sources, ("balance", compat, clip), self._values)

    def _values(self, source: TensorSource, tile: Tile) -> list[Tensor]:
        base = source.base(tile)
        deltas = [source.deltas(index, tile, base) for index in range(len(source.input_names))]
        limits = [self.limits[name] for name in source.input_names]
        return _balance(deltas, limits, len(self.limits), self._compat, tile)

    def scale_of(self, names: Sequence[str], density: Sequence[float]) -> tuple[Limits, ...]:
        """Return for every input the balance at which elements begin to count, and the largest."""
        places = []
        for name, share in zip(names, density, strict=True):
            numel = self._balances.numel[name]
            places += [(name, min(int(numel * (1 - share)), numel - 1)), (name, numel - 1)]
        values = [found.value for found in self._balances.at(places)]
        return tuple(zip(values[::2], values[1::2], strict=True))


def _compete(sources: Iterable[TensorSource], *, clip: Clip, compat: Compat = "official") -> _Competition:
    if not 0 <= clip < 0.5:
        raise MethodError(f"clip must be a fraction below one half; it is {clip}.")
    return _Competition(sources, clip, compat)


def _balance(deltas: Sequence[Tensor], limits: Sequence[Limits], n: int, compat: Compat, tile: Tile) -> list[Tensor]:
    """Return intra- times inter-balancing of every delta (n_inputs tiles), up to a factor per input that cancels."""
    pairs = zip(deltas, limits, strict=True)
    shares = [_normalized(delta, limit, tile, index) for index, (delta, limit) in enumerate(pairs)]
    total = tile.scratch("rivals", deltas[0]).zero_()
    for value in deltas if compat == "official" else shares:
        total.add_(value)
    balances = []
    for index, (delta, share) in enumerate(zip(deltas, shares, strict=True)):
        inter = tile.scratch(("balance", index), delta)
        if compat == "vision_es":
            inter.zero_()
            for other in shares:
                inter.add_(torch.mul(share, other, out=tile.scratch("product", delta)).tanh_())
        else:
            torch.mul(delta, total, out=inter).tanh_()
        # exp(n * (share**2 - 1)) instead of exp(n * share**2): it cannot overflow.
        intra = torch.mul(share, share, out=tile.scratch("product", delta)).sub_(1).mul_(n).exp_()
        balances.append(inter.mul_(intra))
    return balances


def _normalized(delta: Tensor, limits: Limits, tile: Tile, index: int) -> Tensor:
    """Return sign times clipped magnitude, scaled to [0, 1]; 0 for a delta with a single magnitude."""
    low, high = limits
    share = torch.abs(delta, out=tile.scratch(("share", index), delta)).clamp_(low, high).sub_(low)
    return share.mul_(1 / (high - low) if high > low else 0.0).mul_(torch.sign(delta, out=tile.scratch("sign", delta)))


def _prepared(
    source: TensorSource, *, weight: Weight, density: Density, surveyed: _Competition
) -> CopyOf | tuple[int, tuple[Limits, ...], tuple[Limits, ...]]:
    if not any(weight):
        return CopyOf(BASE)
    limits = tuple(surveyed.limits[name] for name in source.input_names)
    return len(surveyed.limits), limits, surveyed.scale_of(source.input_names, density)


@merge_method(
    operates_on="deltas",
    reference="https://arxiv.org/abs/2410.02396",
    prepare=_prepared,
    survey=_compete,
    linear_in=("weight",),
)
def pcb(
    deltas: Sequence[Tensor],
    *,
    weight: Weight,
    compat: Compat = "official",
    prepared: tuple[int, tuple[Limits, ...], tuple[Limits, ...]],
    tile: Tile,
) -> Tensor:
    """Base + average of weight times delta, weighted per element by its competition score.

    Over the whole model: a delta's magnitudes are clipped at their quantiles `clip` and 1 - `clip`; an element's
    balance is exp(n_inputs * normalized magnitude squared) times tanh(its delta times the sum of all deltas); the
    `density` with the largest balance count, from 0 at the smallest of them to 1 at the largest.

    compat: "official" is the authors' script for language models; "vision" and "vision_es" are their scripts for vision
    models, with the signed normalized magnitudes in the sum instead of the deltas, or with the sum of the tanh of
    their products; these use clip 0.01.
    """
    n_models, limits, scales = prepared
    balances = _balance(deltas, limits, n_models, compat, tile)
    merged = tile.scratch("merged", deltas[0]).zero_()
    divisor = tile.scratch("divisor", deltas[0]).zero_()
    for delta, balance, value, clip, (low, high) in zip(deltas, balances, weight, limits, scales, strict=True):
        if high > low:
            score = balance.sub_(low).mul_(1 / (high - low)).clamp_(0, 1)
        else:
            score = torch.ge(balance, max(high, _LEAST), out=balance)
        divisor.add_(score)
        sign = torch.sign(delta, out=tile.scratch("sign", delta))
        merged.add_(delta.abs_().clamp_(*clip).mul_(sign).mul_(score).mul_(value))
    return merged.div_(divisor.clamp_min_(_LEAST))
