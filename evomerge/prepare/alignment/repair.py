"""REPAIR: restoring the statistics of hidden units after averaging (Jordan et al., 2023). https://arxiv.org/abs/2211.08403.

Averaging independently trained networks, even matched ones, leaves hidden units with too little variance. This restores
the means and standard deviations that a linear layer's outputs have in the endpoints, folded into its weight and
bias. RESCALE, which ignores the means, needs no bias: https://arxiv.org/abs/2402.05966.

Layers are corrected in forward order, each measured after the corrected ones before it. In a transformer
this is meaningful for the inputs of an activation function (gate, up and first MLP layers); outputs added to the
residual stream are normalized by the next LayerNorm or RMSNorm anyway, and queries and keys share their scale. Models
fine-tuned from one base lose hardly any variance and do not need it.
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
    """Streaming statistics of outputs, batch by batch (Chan, Golub, LeVeque, 1979)."""

    def __init__(self) -> None:
        self._count = 0
        self._mean = self._squares = torch.zeros((), dtype=torch.float64)

    def add(self, outputs: Tensor) -> None:
        """Add a layer's outputs before its activation function: (..., n_outputs)."""
        vectors = outputs.detach().reshape(-1, outputs.shape[-1]).double()
        mean, total = vectors.mean(0), self._count + len(vectors)
        gap, share = mean - self._mean, len(vectors) / total
        self._squares = self._squares + (vectors - mean).square().sum(0) + gap.square() * (self._count * share)
        self._mean, self._count = self._mean + gap * share, total

    def channels(self) -> Channels:
        """Return means and standard deviations so far, on the CPU, with the unbiased variance.

        Raises ValueError for fewer than two vectors, which have no variance.
        """
        if self._count < 2:
            raise ValueError(f"A standard deviation needs at least two output vectors; there are {self._count}.")
        return Channels(self._mean.cpu(), (self._squares / (self._count - 1)).sqrt().cpu())


def measure(outputs: Iterable[Tensor]) -> Channels:
    """Measure batches of outputs (..., n_outputs). Raises ValueError for fewer than two vectors in total."""
    running = Running()
    for batch in outputs:
        running.add(batch)
    return running.channels()


def goal(endpoints: Sequence[Channels], weights: Sequence[float]) -> Channels:
    """Return the target of an average with these weights: the averages of means and of standard deviations."""
    pairs = list(zip(endpoints, weights, strict=True))
    mean = sum((weight * one.mean for one, weight in pairs), torch.tensor(0.0, dtype=torch.float64))
    return Channels(mean, sum((weight * one.std for one, weight in pairs), torch.tensor(0.0, dtype=torch.float64)))


def repair(weight: Tensor, bias: Tensor | None, found: Channels, wanted: Channels) -> tuple[Tensor, Tensor]:
    """Return weight (n_outputs, n_inputs) and bias that turn outputs with statistics `found` into `wanted`.

    A layer without a bias gets one, which its architecture must support; otherwise use `rescale`.
    """
    gain = _gain(found, wanted)
    old = torch.zeros_like(found.mean) if bias is None else bias.double()
    shifted = (old - found.mean) * gain + wanted.mean
    return (weight.double() * gain[:, None]).to(weight.dtype), shifted.to(weight.dtype if bias is None else bias.dtype)


def rescale(weight: Tensor, bias: Tensor | None, found: Channels, wanted: Channels) -> tuple[Tensor, Tensor | None]:
    """Return weight and bias that turn the outputs' standard deviations into `wanted`; the means scale accordingly."""
    gain = _gain(found, wanted)
    scaled = (weight.double() * gain[:, None]).to(weight.dtype)
    return scaled, None if bias is None else (bias.double() * gain).to(bias.dtype)


def _gain(found: Channels, wanted: Channels) -> Tensor:
    # A constant output, up to rounding, stays constant: no factor makes it vary.
    varies = found.std > torch.finfo(torch.float32).eps * found.mean.abs()
    return torch.where(varies, wanted.std / found.std, 1.0)
