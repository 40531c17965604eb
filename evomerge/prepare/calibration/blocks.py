"""Block-by-block execution: data pause after each block, which can be changed before they continue."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from evomerge.prepare.calibration.collect import tokens_of
from evomerge.prepare.calibration.data import CollectionError, Example


@dataclass
class Batch:
    """Hidden states between blocks, with the other inputs of each block."""

    hidden: Tensor  # (n_examples, length, hidden)
    further: list[tuple[tuple[Any, ...], dict[str, Any]]]
    n_tokens: int


def blocks_of(network: Any) -> list[nn.Module]:
    """Return the blocks of a decoder: the module list with as many entries as the configuration has layers."""
    config = getattr(network.config, "text_config", None) or network.config
    depth = getattr(config, "num_hidden_layers", None)
    found = [m for m in network.modules() if isinstance(m, nn.ModuleList) and len(m) == depth]
    if len(found) != 1:
        raise CollectionError(
            f"{type(network).__name__} has {len(found)} lists of its {depth} blocks; expected exactly one: its blocks "
            "cannot be changed one after the other."
        )
    return list(found[0])


def enter(network: Any, blocks: Sequence[nn.Module], batch: Sequence[Example]) -> Batch:
    """Return the inputs of the blocks for examples of one length, by one pass of the whole network.

    Raises CollectionError for a network that does not run every block exactly once.
    """
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    handles = [
        block.register_forward_pre_hook(lambda _, args, kwargs: calls.append((args, dict(kwargs))), with_kwargs=True)
        for block in blocks
    ]
    try:
        network(input_ids=tokens_of(batch, network.device), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    if len(calls) != len(blocks):
        raise CollectionError(f"The {len(blocks)} blocks of the network ran {len(calls)} times; expected once each.")
    first = calls[0]
    hidden = first[0][0] if first[0] else first[1]["hidden_states"]
    for _, kwargs in calls:
        kwargs.pop("hidden_states", None)
    return Batch(hidden, [(args[1:], kwargs) for args, kwargs in calls], len(batch) * batch[0].length)


def forward(block: nn.Module, number: int, batch: Batch) -> Tensor:
    """Return the output of block `number` on a batch: (n_examples, length, hidden)."""
    args, kwargs = batch.further[number]
    written = block(batch.hidden, *args, **kwargs)
    hidden: Tensor = written[0] if isinstance(written, tuple) else written
    return hidden
