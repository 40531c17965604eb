"""Smoke test of an export: load the checkpoint as a user would, and run it once on a suitable input."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evaluators._tokens import max_length
from evomerge.merging.models.checkpoint import Checkpoint
from evomerge.resident.network_state import floats_in
from evomerge.resident.resident import ModelError, load_resident

#: How many tokens are read, where the model reads so many.
_TOKENS = 16
#: Height and width of an image, and seconds of sound, where the configuration names none.
_PIXELS, _SAMPLES = 64, 4000
#: Exceptions of a network for an input of a kind that it does not take.
_REFUSALS = (AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError)

Inputs = dict[str, Tensor]


def smoke_test(folder: Path) -> str | None:
    """Load a checkpoint and run it once. Return a note on what could not be tested; None if all was.

    Raises ModelError when it cannot be loaded or computes numbers that are not finite.
    """
    checkpoint = Checkpoint.open(folder)
    if checkpoint.config is None:
        return None
    network = load_resident(checkpoint, checkpoint.path, None, "cpu").network
    refusal = "no input is known for it"
    for inputs in example_inputs(network):
        try:
            with torch.inference_mode():
                found = list(floats_in(network(**inputs)))
        except _REFUSALS as error:
            refusal = f"on {' and '.join(inputs)}, {type(error).__name__}: {' '.join(str(error).split())[:200]}"
            continue
        if not all(bool(torch.isfinite(tensor).all()) for tensor in found):
            raise ModelError(f"{folder}: the exported model computes non-finite logits.")
        return None
    return f"{folder}: {type(network).__name__} was loaded, but not run ({refusal}): try it on an input of your own"


def example_inputs(network: Any) -> Iterator[Inputs]:
    """Small inputs that a network may take, by its main input: tokens, pixels, sound; the likeliest first."""
    config, name = network.config, network.main_input_name
    written = {"decoder_input_ids": torch.zeros((1, 2), dtype=torch.long)} if _writes(config) else {}
    if name == "input_ids":
        tokens = {"input_ids": _tokens(network)}
        yield tokens | written
        yield from (tokens | pixels for pixels in _pixels(config, network.dtype))
    elif name == "pixel_values":
        tokens = {"input_ids": _tokens(network)} if hasattr(config, "text_config") else {}
        yield from (pixels | tokens | written for pixels in _pixels(config, network.dtype))
    else:
        yield from ({name: values} | written for values in _sound(config, network.dtype))


def _writes(config: Any) -> bool:
    return bool(getattr(config, "is_encoder_decoder", False))


def _tokens(network: Any) -> Tensor:
    """Tokens of the vocabulary without those that the configuration gives a meaning: images, ends."""
    config = getattr(network.config, "text_config", None) or network.config
    rows = getattr(config, "vocab_size", None) or _TOKENS
    special = {
        value
        for part in (network.config, config)
        for key, value in vars(part).items()
        if "token_i" in key and type(value) is int
    }
    plain = [token for token in range(min(rows, _TOKENS + len(special))) if token not in special] or [0]
    # Some networks count positions from the padding token on.
    length = max(1, min(_TOKENS, max_length(network, None) - 2))
    return torch.tensor([plain[n % len(plain)] for n in range(length)]).unsqueeze(0)


def _pixels(config: Any, dtype: torch.dtype) -> Iterator[Inputs]:
    part = getattr(config, "vision_config", None) or config
    size = getattr(part, "image_size", None) or _PIXELS
    height, width = (size, size) if isinstance(size, int) else (*size, *size)[:2]
    shape = (getattr(part, "num_channels", 3), height, width)
    if hasattr(part, "num_frames"):
        yield {"pixel_values": _ramp((1, part.num_frames, *shape), dtype)}
    yield {"pixel_values": _ramp((1, *shape), dtype)}


def _sound(config: Any, dtype: torch.dtype) -> Iterator[Tensor]:
    bins = getattr(config, "num_mel_bins", None) or getattr(config, "feature_size", None)
    if bins and hasattr(config, "max_source_positions"):
        yield _ramp((1, bins, 2 * config.max_source_positions), dtype)
    if bins and hasattr(config, "max_length"):
        yield _ramp((1, config.max_length, bins), dtype)
    yield _ramp((1, _SAMPLES), dtype)


def _ramp(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.linspace(-1, 1, torch.Size(shape).numel()).to(dtype).reshape(shape)
