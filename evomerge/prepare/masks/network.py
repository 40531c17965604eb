"""A resident network whose weights are a base's plus a change, and the gradient of its loss by that change."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from evomerge.merging.models.model import Model
from evomerge.prepare.calibration.data import CollectionError, Example, batches
from evomerge.prepare.calibration.layers import parts
from evomerge.prepare.label_losses import BatchLoss
from evomerge.resident.resident import ResidentModel
from search_spaces.base import FloatArray

#: Tensor's name -> what is added to the base's, float32, of its shape.
Change = Mapping[str, Tensor]


class Slope(NamedTuple):
    """A loss, and its gradient by the change of each tensor, by name."""

    loss: float
    gradients: dict[str, Tensor]


class ChangedNetwork:
    """The network of `model` as base plus change.

    Args:
        model: The network, of the base's architecture; its weights are overwritten.
        base: Weights without a change.
        loss: The loss of each example.
        batch_tokens: Tokens per pass.
        step: Called with the tokens of each pass.

    Raises:
        CollectionError: transformers builds parameters from tensors that are not views of them.
    """

    def __init__(
        self, model: ResidentModel, base: Model, loss: BatchLoss, batch_tokens: int, step: Callable[[float], None]
    ) -> None:
        self._model, self._loss, self._batch_tokens, self._step = model, loss, batch_tokens, step
        self._network = model.network
        named = [name for name in base.names if base.mergeable(name) and name in model.tensors]
        places: dict[int, list[str]] = {}
        for name in named:
            places.setdefault(model.tensors[name].data_ptr(), []).append(name)
        #: Names by the first name of the tensor in memory: tied tensors are one.
        self.names = {names[0]: tuple(names) for names in places.values()}
        self._base = {name: self._wide(base.tensor(name)) for name in self.names}
        self._parts = {name: part for name, part in parts(model).items() if name in self.names}

    def delta(self, expert: Model) -> dict[str, Tensor]:
        """Return an expert's weights minus the base's. Raises CollectionError for tensors of another shape."""
        found = {}
        for name, base in self._base.items():
            theirs = self._wide(expert.tensor(name))
            if theirs.shape != base.shape:
                raise CollectionError(
                    f"{name} has shape {tuple(theirs.shape)} in {expert.path}, and {tuple(base.shape)} in the base: "
                    "masks are learned for models of one vocabulary and architecture."
                )
            found[name] = theirs - base
        return found

    def slope(self, change: Change, examples: Sequence[Example]) -> Slope:
        """Return the mean loss of examples, and its gradient; zero for tensors that are no parameters."""
        self._write(change)
        parameters = [part.parameter for part in self._parts.values()]
        loss = 0.0
        for parameter in parameters:
            parameter.requires_grad_(True)
        with torch.enable_grad():
            for batch in batches(examples, self._batch_tokens):
                share = self._loss(self._network, batch).sum() / len(examples)
                share.backward()  # type: ignore[no-untyped-call]
                loss += float(share.detach())
                self._step(3.0 * len(batch) * batch[0].length)
        gradients = {name: torch.zeros_like(base) for name, base in self._base.items()}
        for name, part in self._parts.items():
            if part.grad is not None:
                gradients[name].copy_(part.grad)
        for parameter in parameters:
            parameter.requires_grad_(False).grad = None
        return Slope(loss, gradients)

    def losses(self, change: Change, examples: Sequence[Example]) -> FloatArray:
        """Return the loss of every example, in their order."""
        self._write(change)
        found: dict[Example, float] = {}
        with torch.no_grad():
            for batch in batches(examples, self._batch_tokens):
                found.update(zip(batch, self._loss(self._network, batch).tolist(), strict=True))
                self._step(float(len(batch) * batch[0].length))
        return np.array([found[example] for example in examples])

    def _write(self, change: Change) -> None:
        with torch.no_grad():
            for name, base in self._base.items():
                self._model.tensors[name].copy_(base + change[name])
        self._model.settle()

    def _wide(self, tensor: Tensor) -> Tensor:
        return tensor.to(self._network.device, torch.float32)


def count(masks: Iterable[Tensor]) -> tuple[int, int]:
    """Return the number of elements of masks that are not zero, and of all."""
    listed = list(masks)
    return sum(int(mask.count_nonzero()) for mask in listed), sum(mask.numel() for mask in listed)
