"""Losses of a causal language model on the labels of examples, differentiable by its parameters."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from evomerge.prepare.calibration.data import Example

#: Returns the loss of each example of a batch, all of one length, given the network: (n_examples,).
BatchLoss = Callable[[Any, Sequence[Example]], Tensor]


def label_losses(network: Any, batch: Sequence[Example], temperature: Tensor | None = None) -> Tensor:
    """Return the mean negative log-likelihood of each example's labels, in nats per token: (n_examples,).

    batch: examples of one length. temperature: factor of the outputs.
    """
    logits, targets, labels = _read(network, batch)
    if temperature is not None:
        logits = logits * temperature.to(logits.dtype)
    surprise = torch.nn.functional.cross_entropy(logits.transpose(1, 2), targets, reduction="none")
    return (surprise * labels).sum(1) / labels.sum(1)


def entropies(network: Any, batch: Sequence[Example]) -> Tensor:
    """Return the mean entropy of the predictions at each example's labels, in nats per token: (n_examples,).

    Which tokens the labels are does not count, only where they are. batch: examples of one length.
    """
    logits, _, labels = _read(network, batch)
    logs = logits.log_softmax(-1)
    return (-(logs.exp() * logs).sum(-1) * labels).sum(1) / labels.sum(1)


def _read(network: Any, batch: Sequence[Example]) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits (n_examples, length, vocabulary), target tokens and which are labels, from the first label on."""
    tokens = torch.tensor([example.tokens for example in batch], device=network.device)
    firsts = torch.tensor([example.first for example in batch], device=tokens.device)
    start = int(firsts.min())
    logits = network(input_ids=tokens[:, :-1], use_cache=False).logits[:, start - 1 :]
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    labels = torch.arange(start, tokens.shape[1], device=tokens.device) >= firsts[:, None]
    return logits, tokens[:, start:], labels
