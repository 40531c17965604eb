"""The rescaling factors of DAREx-q from data, one per layer (Deng et al., 2025). https://arxiv.org/abs/2410.09344."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from evomerge.merging.methods.darex_q import analytic_q
from evomerge.merging.models.model import Model
from evomerge.prepare.calibration.collect import tokens_of
from evomerge.prepare.calibration.data import CollectionError, Example, batches
from evomerge.prepare.calibration.layers import LinearLayer, linear_layers
from evomerge.resident.resident import ResidentModel


def input_means(
    model: ResidentModel, examples: Sequence[Example], batch_tokens: int, step: Callable[[int], None]
) -> dict[str, Tensor]:
    """Return the mean input over all tokens of every linear layer but the head: weight's name -> (n_in,), float64.

    step: called with the number of tokens of each forward pass.
    """
    layers = [layer for layer in linear_layers(model) if not layer.speaks]
    sums = {layer.name: torch.zeros(layer.n_in, dtype=torch.float64) for layer in layers}
    counts = dict.fromkeys(sums, 0)

    def watch(layer: LinearLayer) -> torch.utils.hooks.RemovableHandle:
        def read(_: torch.nn.Module, arguments: tuple[Tensor, ...]) -> None:
            rows = arguments[0].detach().reshape(-1, layer.n_in)
            sums[layer.name] += rows.sum(dim=0, dtype=torch.float64).cpu()
            counts[layer.name] += len(rows)

        return layer.module.register_forward_pre_hook(read)

    handles = [watch(layer) for layer in layers]
    try:
        with torch.no_grad():
            for batch in batches(examples, batch_tokens):
                model.network(input_ids=tokens_of(batch, model.network.device), use_cache=False)
                step(len(batch) * batch[0].length)
    finally:
        for handle in handles:
            handle.remove()
    return {name: total / max(counts[name], 1) for name, total in sums.items()}


def layer_factors(
    base: Model, expert: Model, means: Mapping[str, Tensor], density: float, eta: float
) -> dict[str, float]:
    """Return q by the name of the layer's weight: the mean of `analytic_q` over the layer's outputs.

    means: mean inputs, name -> (n_in,). A layer without a name in the files, or that did not change, has none.
    Raises CollectionError where no layer changed, or an input is not finite.
    """
    factors: dict[str, float] = {}
    for name, mean in means.items():
        if not torch.isfinite(mean).all():
            raise CollectionError(f"The inputs of {name} are not finite: does the model compute finite numbers?")
        delta = expert.tensor(name).double() - base.tensor(name).double()
        if delta.any():
            outputs = delta if delta.shape[1] == len(mean) else delta.T
            factors[name] = float(analytic_q((outputs * mean).numpy(), density, eta=eta).mean())
    if not factors:
        raise CollectionError("No linear layer of the model differs from the base's, so there is nothing to rescale.")
    return factors


def factor_of(name: str, factors: Mapping[str, float]) -> float:
    """Return the q of any tensor: a bias has that of its weight, others have the mean of all."""
    weight = f"{name.removesuffix('.bias')}.weight"
    return factors.get(name, factors.get(weight, float(np.mean(list(factors.values())))))
