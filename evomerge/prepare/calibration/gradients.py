"""Forward and backward passes over single examples: squared gradients of the log-likelihood of their labels."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from evomerge.prepare.calibration.data import Example
from evomerge.prepare.calibration.layers import Accumulator, LinearLayer, parts, recording
from evomerge.resident.resident import ResidentModel

#: The data's own labels, or labels sampled from the model's predictions, as in the definition of Fisher information.
Labels = Literal["data", "sampled"]


@dataclass
class Squares:
    """Sums over examples of the squared gradient of each parameter by name; none for an empty dict."""

    sums: dict[str, Tensor]
    n_examples: int = 0

    def means(self) -> dict[str, Tensor]:
        """Return Fisher information by name in the file, reusing the sums' memory: call it once, at the end."""
        return {f"fisher/{name}": total.div_(max(self.n_examples, 1)) for name, total in self.sums.items()}


def backwards(
    model: ResidentModel,
    layers: Sequence[LinearLayer],
    examples: Sequence[Example],
    squares: Squares,
    moments: Accumulator,
    labels: Labels,
    seed: int,
) -> Iterator[int]:
    """Add every example to the squares and to the second moments of gradients; yield its number of tokens."""
    network, named = model.network, parts(model)
    # Without Fisher information, gradients only need to reach the input embeddings.
    followed = (
        [part.parameter for part in named.values()]
        if squares.sums
        else list(network.get_input_embeddings().parameters())
    )
    with _following(followed), torch.enable_grad(), recording(layers, "gram_out", moments):
        for index, example in enumerate(examples):
            _loss(network, example, labels, seed, index).backward()  # type: ignore[no-untyped-call]
            for name, total in squares.sums.items():
                gradient = named[name].grad
                if gradient is not None:
                    wide = gradient.float()
                    total.addcmul_(wide, wide)
            for parameter in followed:
                parameter.grad = None
            squares.n_examples += 1
            yield example.length


@contextmanager
def _following(tensors: Sequence[Tensor]) -> Iterator[None]:
    for tensor in tensors:
        tensor.requires_grad_(True)
    try:
        yield
    finally:
        for tensor in tensors:
            tensor.requires_grad_(False)


def _loss(network: Any, example: Example, labels: Labels, seed: int, index: int) -> Tensor:
    """Return the negative log-likelihood of an example's labels: their sum, in nats."""
    tokens = torch.tensor([example.tokens], device=network.device)
    logits = network(input_ids=tokens[:, :-1], use_cache=False).logits[0, example.first - 1 :].float()
    targets = tokens[0, example.first :] if labels == "data" else sample(logits.detach(), seed, index)
    loss: Tensor = torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
    return loss


def sample(logits: Tensor, seed: int, index: int) -> Tensor:
    """Sample one token per row of logits (n, vocabulary), keyed by the seed and the example."""
    numbers = np.random.Generator(np.random.Philox(key=[seed, index])).random(len(logits))
    cumulated = logits.double().softmax(-1).cumsum(-1)
    drawn = torch.searchsorted(cumulated, torch.tensor(numbers, device=logits.device)[:, None])[:, 0]
    return drawn.clamp_max(logits.shape[-1] - 1)
