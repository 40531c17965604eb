"""REPAIR: restoring the statistics of hidden units after averaging (Jordan et al., 2023). https://arxiv.org/abs/2211.08403.

Averaging networks that were trained apart, even matched ones, leaves hidden units that vary too little. Here a linear
layer gets back the means and standard deviations that its outputs have in the endpoints, folded into its weight and
bias. RESCALE, without the means, needs no bias: https://arxiv.org/abs/2402.05966.

Layers are corrected in the order of the data, each measured behind those that were corrected before. In a transformer
this is meaningful for what an activation function reads (gate, up and first MLP layers); what is added to the residual
stream is normalised by the next LayerNorm or RMSNorm anyway, and queries and keys share their scale. Models that were
fine-tuned from one base lose hardly any variance and need none of it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Channels:
    """Mean and standard deviation of each output of a layer over a data set, (n_outputs,) in float64."""

    mean: Tensor
    std: Tensor


class Running:
    """Statistics of outputs that come batch by batch and are not kept (Chan, Golub, LeVeque, 1979)."""

    def __init__(self) -> None:
        self._count = 0
        self._mean = self._squares = torch.zeros((), dtype=torch.float64)

    def add(self, outputs: Tensor) -> None:
        """Take in a layer's outputs before its activation function: (..., n_outputs)."""
        vectors = outputs.detach().reshape(-1, outputs.shape[-1]).double()
        mean, total = vectors.mean(0), self._count + len(vectors)
        gap, share = mean - self._mean, len(vectors) / total
        self._squares = self._squares + (vectors - mean).square().sum(0) + gap.square() * (self._count * share)
        self._mean, self._count = self._mean + gap * share, total

    def channels(self) -> Channels:
        """Means and standard deviations so far, on the CPU; the variance is the unbiased one.

        Raises ValueError for fewer than two vectors, which vary in nothing.
        """
        if self._count < 2:
            raise ValueError(f"A standard deviation needs two vectors of outputs at least; there are {self._count}.")
        return Channels(self._mean.cpu(), (self._squares / (self._count - 1)).sqrt().cpu())


def measure(outputs: Iterable[Tensor]) -> Channels:
    """Statistics of batches of outputs (..., n_outputs). Raises ValueError for fewer than two vectors in all."""
    running = Running()
    for batch in outputs:
        running.add(batch)
    return running.channels()


def goal(endpoints: Sequence[Channels], weights: Sequence[float]) -> Channels:
    """What an average with these weights should have: the averages of means and of standard deviations."""
    pairs = list(zip(endpoints, weights, strict=True))
    mean = sum((weight * one.mean for one, weight in pairs), torch.tensor(0.0, dtype=torch.float64))
    return Channels(mean, sum((weight * one.std for one, weight in pairs), torch.tensor(0.0, dtype=torch.float64)))


def repair(weight: Tensor, bias: Tensor | None, found: Channels, wanted: Channels) -> tuple[Tensor, Tensor]:
    """Weight (n_outputs, n_inputs) and bias with which outputs that are as `found` become as `wanted`.

    A layer without a bias gets one, for which its architecture must have a place; else use `rescale`.
    """
    gain = _gain(found, wanted)
    old = torch.zeros_like(found.mean) if bias is None else bias.double()
    shifted = (old - found.mean) * gain + wanted.mean
    return (weight.double() * gain[:, None]).to(weight.dtype), shifted.to(weight.dtype if bias is None else bias.dtype)


def rescale(weight: Tensor, bias: Tensor | None, found: Channels, wanted: Channels) -> tuple[Tensor, Tensor | None]:
    """Weight and bias with which the outputs' standard deviations become as `wanted`, and the means what follows."""
    gain = _gain(found, wanted)
    scaled = (weight.double() * gain[:, None]).to(weight.dtype)
    return scaled, None if bias is None else (bias.double() * gain).to(bias.dtype)


def _gain(found: Channels, wanted: Channels) -> Tensor:
    # An output that is always the same, up to rounding, stays so: no factor makes it vary.
    varies = found.std > torch.finfo(torch.float32).eps * found.mean.abs()
    return torch.where(varies, wanted.std / found.std, 1.0)
