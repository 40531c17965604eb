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


def measure(outputs: Iterable[Tensor]) -> Channels:
    """Statistics of a layer's outputs before its activation function: batches of shape (..., n_outputs).

    The variance is the unbiased one. Raises ValueError for fewer than two vectors, which vary in nothing.
    """
    vectors = torch.cat([batch.detach().reshape(-1, batch.shape[-1]).double() for batch in outputs])
    if len(vectors) < 2:
        raise ValueError(f"A standard deviation needs two vectors of outputs at least; there are {len(vectors)}.")
    return Channels(vectors.mean(0), vectors.std(0))


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
    return (weight.double() * gain[:, None]).to(weight.dtype), shifted.to(weight.dtype)


def rescale(weight: Tensor, bias: Tensor | None, found: Channels, wanted: Channels) -> tuple[Tensor, Tensor | None]:
    """Weight and bias with which the outputs' standard deviations become as `wanted`, and the means what follows."""
    gain = _gain(found, wanted)
    scaled = (weight.double() * gain[:, None]).to(weight.dtype)
    return scaled, None if bias is None else (bias.double() * gain).to(bias.dtype)


def _gain(found: Channels, wanted: Channels) -> Tensor:
    # An output that is always the same stays so: no factor makes it vary.
    return torch.where(found.std > 0, wanted.std / found.std, 1.0)
