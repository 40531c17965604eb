"""Linear layers of a network, and the second moments of their inputs and of their output gradients."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from evomerge.prepare.calibration.data import CollectionError
from evomerge.resident.parts import Part, parts_of
from evomerge.resident.resident import ResidentModel

KINDS = frozenset(("fisher", "gram", "gram_out", "transposed"))


@dataclass(frozen=True)
class LinearLayer:
    """A linear layer: checkpoint name of its weight, its sizes, and whether its weight is stored (in, out).

    speaks: whether it computes token logits, for which a second moment of output gradients is larger than the model.
    """

    name: str
    module: nn.Module
    n_in: int
    n_out: int
    transposed: bool
    speaks: bool


class Collected(dict[str, Tensor]):
    """Statistics in memory, named as in their files (`gram/NAME`): sums while collecting, means at the end."""

    @property
    def kinds(self) -> frozenset[str]:
        """Return every kind: statistics that one tensor lacks exist for others."""
        return KINDS

    def tensor(self, kind: str, name: str) -> Tensor | None:
        """Return the statistic of this kind for a tensor, or None."""
        return self.get(f"{kind}/{name}")


def parts(model: ResidentModel) -> dict[str, Part]:
    """Return the checkpoint's tensors within the network's parameters, by name.

    Raises CollectionError if transformers builds parameters from tensors that are not views of them.
    """
    if model.staged:
        raise CollectionError(
            f"{type(model.network).__name__}: transformers rearranges {', '.join(model.staged[:3])} when it loads "
            "them, so that gradients and statistics have other names: this model can only be merged and searched."
        )
    return parts_of(model)


def linear_layers(model: ResidentModel) -> list[LinearLayer]:
    """Return every linear layer with a weight of its own in the checkpoint, in the network's order.

    Excludes output embeddings tied to the input embeddings, which read tokens.
    """
    network = model.network
    names = {part.parameter.data_ptr(): name for name, part in parts(model).items() if part.is_whole}
    tied = {module.weight.data_ptr() for module in network.modules() if isinstance(module, nn.Embedding)}
    head = network.get_output_embeddings()
    found = []
    for module in network.modules():
        if not isinstance(module, nn.Linear | Conv1D):
            continue
        weight: Tensor = module.weight
        name = names.get(weight.data_ptr())
        if name is None or weight.data_ptr() in tied:
            continue
        transposed = isinstance(module, Conv1D)
        n_in, n_out = weight.shape if transposed else weight.shape[::-1]
        found.append(LinearLayer(name, module, n_in, n_out, transposed, module is head))
    return found


def shapes(layers: Sequence[LinearLayer], kinds: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Return name -> shape of the second moments of these kinds, and of the marks of layers stored (in, out)."""
    found: dict[str, tuple[int, ...]] = {}
    for layer in layers:
        if "gram" in kinds:
            found[f"gram/{layer.name}"] = (layer.n_in, layer.n_in)
        if "gram_out" in kinds and not layer.speaks:
            found[f"gram_out/{layer.name}"] = (layer.n_out, layer.n_out)
        if layer.transposed and ("gram" in kinds or "gram_out" in kinds):
            found[f"transposed/{layer.name}"] = (1,)
    return found


class Accumulator:
    """Sums of products over tokens, by name, in float32; `means` turns each into a mean, once, at the end."""

    def __init__(self, sizes: Mapping[str, tuple[int, ...]], device: torch.device) -> None:
        self._sums = {name: torch.zeros(shape, device=device) for name, shape in sizes.items()}
        self._counts = dict.fromkeys(self._sums, 0)

    def add(self, name: str, values: Tensor) -> None:
        """Add the outer product of every row of `values` (..., size)."""
        if name in self._sums:
            rows = values.detach().reshape(-1, values.shape[-1]).float()
            self._sums[name].addmm_(rows.T, rows)
            self._counts[name] += len(rows)

    def means(self) -> dict[str, Tensor]:
        """Return the second moments; zeros if there was no token."""
        return {name: total.div_(max(self._counts[name], 1)) for name, total in self._sums.items()}


@contextmanager
def recording(layers: Sequence[LinearLayer], kind: str, into: Accumulator) -> Iterator[None]:
    """Record layer inputs in forward passes ("gram"), or output gradients in backward passes ("gram_out")."""

    def watch(layer: LinearLayer) -> Any:
        name = f"{kind}/{layer.name}"
        if kind == "gram":
            return layer.module.register_forward_pre_hook(lambda _, arguments: into.add(name, arguments[0]))

        def written(_: Any, __: Any, output: Tensor) -> None:
            output.register_hook(lambda gradient: into.add(name, gradient))  # type: ignore[no-untyped-call]

        return layer.module.register_forward_hook(written)

    with ExitStack() as stack:
        for layer in layers:
            stack.callback(watch(layer).remove)
        yield
