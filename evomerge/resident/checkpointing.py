"""Activation checkpointing: a backward pass recomputes each layer instead of keeping its activations."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from evomerge.resident.places import ModelError

#: Arguments of layers that would be written to once more when they are recomputed; without them, nothing is cached.
_CACHES = ("past_key_values", "past_key_value", "layer_past", "cache_params")


@contextmanager
def checkpointed(network: Any) -> Iterator[None]:
    """Recompute the layers of a network in backward passes within the context.

    transformers does so only in training mode, which would also switch dropout on; the network stays in evaluation
    mode here, and no layer remembers earlier tokens.

    Raises:
        ModelError: The network has no layers that transformers can recompute.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer  # takes seconds, also without a network

    layers = [module for module in network.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise ModelError(
            f"transformers cannot recompute the layers of {type(network).__name__}: switch checkpointing off."
        )
    own = [vars(layer).get("forward") for layer in layers]
    for layer in layers:
        vars(layer)["forward"] = partial(_recomputed, layer.forward)
    try:
        yield
    finally:
        for layer, forward in zip(layers, own, strict=True):
            if forward is None:
                del vars(layer)["forward"]
            else:
                vars(layer)["forward"] = forward


def _recomputed(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    kwargs |= dict.fromkeys(kwargs.keys() & set(_CACHES))
    if "use_cache" in kwargs:
        kwargs["use_cache"] = False
    # Nothing is random in evaluation mode.
    return checkpoint(partial(forward, **kwargs), *args, use_reentrant=False, preserve_rng_state=False)
