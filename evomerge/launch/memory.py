"""Estimates of the memory that a search needs."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from evomerge.merging.recipe_models import RecipeModels

#: A process with torch, transformers and the evaluators' libraries (measured: 470 MB), and what merging adds.
LIBRARIES = 500_000_000
#: What vLLM takes on a CPU besides the weights: its libraries and its cache of keys and values.
VLLM = 1_500_000_000
#: Tokens of a batch on a CPU, and logits at which choices are scored: what a forward pass holds at its peak.
TOKENS, LOGITS = 4096, 2**24
#: Memory of a model's blocks with scaled output projections, which are about a third of the weights.
_SCALED = 4 / 3
#: Share of the available memory that is relied on.
SAFE = 0.9


@dataclass(frozen=True)
class MemoryNeeds:
    """Memory needs of a search, in bytes.

    inputs: files of all models, mapped once for all workers. worker: of each worker's own: libraries, network,
    embeddings matched by token, activations. folded: what a worker's adapters take when they are kept folded.
    device: of each worker's own on a GPU: the network and copies of all models. export: the merged weights on disk.
    largest: the largest tensor of the network, whose gradient is held for a moment.
    """

    inputs: int
    worker: int
    folded: int = 0
    device: int = 0
    export: int = 0
    largest: int = 0

    def total(self, workers: int, kept: int = 0) -> int:
        """Return the bytes for a number of workers that each keep `kept` bytes of folded adapters."""
        return self.inputs + workers * (self.worker + kept)

    def fitting(self, available: int) -> int:
        """Return how many workers fit into memory, at least 1."""
        return max(1, int((SAFE * available - self.inputs) / self.worker))

    def room_to_keep(self, workers: int, available: int) -> int:
        """Return the bytes that each worker may use to keep adapters folded."""
        return max(0, min(self.folded, int((SAFE * available - self.total(workers)) / workers)))


def memory_needs(
    sources: RecipeModels,
    dtype: torch.dtype | None,
    compute: torch.dtype | None,
    *,
    vllm: bool = False,
    paths: bool = False,
) -> MemoryNeeds:
    """Estimate the memory needs of a search over these models.

    dtype: of merged weights, None for the base's. compute: of the network if it differs. vllm: whether vLLM holds the
    weights once more. paths: whether the blocks of all models are resident, with output projections that are scaled.
    """
    base = sources.base
    stored = {name: dtype if dtype and base.mergeable(name) else base.dtype(name) for name in base.names}
    sizes = {name: math.prod(base.shape(name)) for name in base.names}
    tensors = {name: size * (compute or stored[name]).itemsize for name, size in sizes.items()}
    network = int(sum(tensors.values()) * (len(sources.models) * _SCALED if paths else 1))
    held = sum(model.held_bytes for model in sources.models)
    folded = sum(
        math.prod(model.shape(name)) * model.dtype(name).itemsize
        for model in sources.models
        for name in model.names
        if model.made(name)
    )
    files = {file for model in sources.models for file in model.files}
    widest = max((kind.itemsize for kind in stored.values()), default=4) if compute is None else compute.itemsize
    return MemoryNeeds(
        inputs=sum(file.stat().st_size for file in files),
        worker=LIBRARIES + network + held + _forward(base.config, widest) + vllm * (VLLM + network),
        folded=folded,
        device=network
        + sum(model.nbytes for model in sources.models)
        + 8 * _forward(base.config, widest)
        + vllm * network,
        largest=max(tensors.values(), default=0),
        export=sum(size * stored[name].itemsize for name, size in sizes.items())
        * (len(sources.models) if paths else 1),
    )


def _forward(config: Mapping[str, Any] | None, itemsize: int) -> int:
    """Return the bytes at the peak of a forward pass; 0 for bare weights.

    They are the widest layer's activations and logits, the latter also in float32.
    """
    if config is None:
        return 0
    text = config.get("text_config") or config
    hidden = int(text.get("hidden_size") or text.get("n_embd") or text.get("d_model") or 0)
    inner = int(text.get("intermediate_size") or text.get("n_inner") or 4 * hidden)
    logits = min(LOGITS, TOKENS * int(text.get("vocab_size") or LOGITS))
    return TOKENS * (4 * hidden + 3 * inner) * itemsize + logits * (itemsize + 4)
