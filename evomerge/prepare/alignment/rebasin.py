"""Git Re-Basin by weight matching (Ainsworth et al., 2023). https://arxiv.org/abs/2209.04836.

Two networks may represent the same function with hidden units in another order. Matching permutes one model's units to
agree with the other's, so that the two can be averaged; its outputs do not change. Models fine-tuned from one base
need no matching.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from evomerge.merging.tiles import Workers
from evomerge.prepare.alignment.symmetries import Place, Units

#: Minimum gain of a new order, as a fraction of the weights' norms: anything smaller is rounding.
_GAIN = 1e-12


class Readable(Protocol):
    """A model whose tensors can be read."""

    def tensor(self, name: str) -> Tensor:
        """Return a tensor on the CPU; read-only."""


@dataclass(frozen=True)
class Matching:
    """Tensors in their new order, as the model stores them, and their agreement with the other model.

    agreement: inner product of the two models' weights over all matched units, before and after every sweep
    over the units; it never decreases. cosine: the same before and after, divided by the weights' norms.
    """

    tensors: Mapping[str, Tensor]
    agreement: tuple[float, ...]
    cosine: tuple[float, float]
    moved: int


def match(model: Readable, to: Readable, units: Sequence[Units], *, seed: int = 0, sweeps: int = 100) -> Matching:
    """Permute the units of `model` to agree with `to`: each kind in turn is optimized while the others stay fixed.

    seed: of the order of the kinds of units. sweeps: maximum number of rounds; matching ends when no kind of units
    improves. The tensors named by `units` of the model are held in memory, once.
    """
    return Workers(1).alone(lambda: _match(model, to, units, seed, sweeps))


def _match(model: Readable, to: Readable, units: Sequence[Units], seed: int, sweeps: int) -> Matching:
    names = dict.fromkeys(place.tensor for one in units for place in one.places)
    tensors = {name: model.tensor(name).clone() for name in names}
    lengths = [
        sum(float(_flat(source(name)).norm()) ** 2 for name in names) ** 0.5 for source in (model.tensor, to.tensor)
    ]
    length = lengths[0] * lengths[1]
    agreement = [_agreement(tensors, to)]
    orders = {one.name: np.arange(one.count) for one in units}
    for sweep in range(sweeps):
        gained = False
        for index in np.random.default_rng([seed, sweep]).permutation(len(units)):
            one = units[index]
            order = _best(tensors, to, one, _GAIN * length)
            if order is not None:
                gained = True
                orders[one.name] = orders[one.name][order]
                for place in one.places:
                    reorder(tensors[place.tensor], place, order)
        agreement.append(_agreement(tensors, to))
        if not gained:
            break
    moved = sum(int((order != np.arange(len(order))).sum()) for order in orders.values())
    length = length or 1.0
    return Matching(tensors, tuple(agreement), (agreement[0] / length, agreement[-1] / length), moved)


def reorder(tensor: Tensor, place: Place, order: Sequence[int]) -> None:
    """Reorder the units of a place in place: unit i becomes the former unit order[i]."""
    part = _part(tensor, place, len(order))
    blocks = part.reshape(len(order), place.block, *part.shape[1:])
    part.copy_(blocks[torch.as_tensor(order)].reshape(part.shape))


def _best(tensors: Mapping[str, Tensor], to: Readable, units: Units, gain: float) -> list[int] | None:
    """Return the order with the highest agreement, or None if it gains nothing."""
    agreement = torch.zeros(units.count, units.count, dtype=torch.float64)
    for place in units.places:
        ours, theirs = (
            _part(tensor, place, units.count).reshape(units.count, -1).double()
            for tensor in (tensors[place.tensor], to.tensor(place.tensor))
        )
        agreement.addmm_(theirs, ours.T)
    rows, columns = linear_sum_assignment(agreement.numpy(), maximize=True)
    better = float(agreement[rows, columns].sum() - agreement.trace()) > gain
    return [int(column) for column in columns] if better else None


def _part(tensor: Tensor, place: Place, count: int) -> Tensor:
    """Return the units' part of a tensor with their axis first, as a view."""
    return tensor.movedim(place.axis, 0)[place.start : place.start + count * place.block]


def _agreement(tensors: Mapping[str, Tensor], to: Readable) -> float:
    return sum(float(_flat(tensor) @ _flat(to.tensor(name))) for name, tensor in tensors.items())


def _flat(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1).double()
