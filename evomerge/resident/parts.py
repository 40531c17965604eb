"""Tensors of a checkpoint within the parameters of a network."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from evomerge.resident.resident import ResidentModel


@dataclass(frozen=True)
class Part:
    """A tensor of the checkpoint within a parameter of the network: all of it, or a view of a fused one."""

    parameter: Tensor
    place: Tensor

    @property
    def is_whole(self) -> bool:
        """Whether the parameter is this tensor and no other."""
        return self.place.shape == self.parameter.shape and self.place.stride() == self.parameter.stride()

    @property
    def grad(self) -> Tensor | None:
        """The tensor's own gradient, or None if there is none yet."""
        gradient = self.parameter.grad
        return None if gradient is None else self.of(gradient)

    def of(self, gradient: Tensor) -> Tensor:
        """Return the part of a gradient of the parameter that belongs to this tensor."""
        if self.is_whole:
            return gradient
        if gradient.stride() != self.parameter.stride():
            gradient = torch.empty_like(self.parameter).copy_(gradient)
        offset = self.place.storage_offset() - self.parameter.storage_offset()
        return gradient.as_strided(self.place.shape, self.place.stride(), gradient.storage_offset() + offset)


class Owners:
    """The parameters of a network by memory: several may be views of one storage."""

    def __init__(self, network: Any) -> None:
        self._by_storage: dict[int, list[Tensor]] = {}
        for parameter in network.parameters():
            self._by_storage.setdefault(parameter.untyped_storage().data_ptr(), []).append(parameter)

    def part(self, place: Tensor) -> Part | None:
        """Return a tensor within the parameter whose memory it is; None if it is no parameter's."""
        start, stop = _extent(place)
        for parameter in self._by_storage.get(place.untyped_storage().data_ptr(), ()):
            first, last = _extent(parameter)
            if first <= start and stop <= last:
                return Part(parameter, place)
        return None


def parts_of(model: ResidentModel) -> dict[str, Part]:
    """Return the checkpoint's tensors within the network's parameters, by name; others are in none."""
    owners = Owners(model.network)
    found = {name: owners.part(place) for name, place in model.tensors.items()}
    return {name: part for name, part in found.items() if part is not None}


def _extent(tensor: Tensor) -> tuple[int, int]:
    """Return the first element of a tensor in its storage, and the one after its last."""
    start = tensor.storage_offset()
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return int(start), int(start + last + 1)
