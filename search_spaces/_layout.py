"""Layout: depth and component of each tensor, inferred from its name; no table of architectures."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from search_spaces._table import SpaceError

# `model.layers.3.`, `transformer.h.3.`, `encoder.block.3.`, `visual.resblocks.3.`: the outermost one counts.
_BLOCK = re.compile(r"(?:^|\.)(?:[a-z_]*(?:layer|block)s?|h)\.(\d+)\.")
# Stacks that read the output of another stack of the same model.
_LATER_STACK = re.compile(r"decoder|language|text")

_NORM = re.compile(r"norm|(?:^|[._])ln(?:[._]|\d|$)", re.IGNORECASE)
_IN_BLOCK = (
    ("norm", _NORM),
    ("attention", re.compile(r"attn|attention", re.IGNORECASE)),
    (
        "mlp",
        re.compile(
            r"mlp|ffn|moe|experts|feed_?forward|densereludense|intermediate|output\.dense|(?:^|\.)fc\d?\.",
            re.IGNORECASE,
        ),
    ),
)
# Norms belong to the head or embedding that contains them (BERT's `embeddings.LayerNorm`).
_OUTSIDE = (
    (
        "head",
        re.compile(
            r"head|embed_out|classifier|score|pooler|qa_outputs|(?:^|\.)vocab_|(?:^|\.)cls\.(?:predictions|seq)",
            re.IGNORECASE,
        ),
    ),
    (
        "embedding",
        re.compile(r"emb|(?:^|\.)(?:wte|wpe|shared)\.|(?:cls|mask|distillation)_token", re.IGNORECASE),
    ),
    ("norm", _NORM),
)


@dataclass(frozen=True)
class Layout:
    """Names, depths and components of a checkpoint's tensors, in checkpoint order.

    `blocks[i]` is the depth of tensor i, counted through all stacks (encoder first), or None outside blocks;
    `components[i]` is "attention", "mlp", "norm" or "other" in a block, and "embedding", "head", "norm" (the final
    norm) or "other" (any unknown name) outside.
    """

    names: tuple[str, ...]
    blocks: tuple[int | None, ...]
    components: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(set(self.names)) != len(self.names):
            twice = next(name for n, name in enumerate(self.names) if name in self.names[:n])
            raise SpaceError(f"A layout needs distinct tensor names; {twice!r} appears twice.")

    @property
    def n_blocks(self) -> int:
        """Return the number of blocks of all stacks together."""
        return 1 + max((block for block in self.blocks if block is not None), default=-1)

    @classmethod
    def from_names(cls, names: Sequence[str]) -> "Layout":
        """Infer depth and component from the names (`...layers.N...`, `...h.N...`, `...block.N...`)."""
        found = [_BLOCK.search(name) for name in names]
        places = [block_of(name) for name in names]
        in_depth = sorted({place for place in places if place is not None}, key=_depth_key)
        depth = {place: n for n, place in enumerate(in_depth)}
        blocks = tuple(None if place is None else depth[place] for place in places)
        components = tuple(
            _first(_OUTSIDE, name) if m is None else _first(_IN_BLOCK, name[m.end() :])
            for name, m in zip(names, found, strict=True)
        )
        return cls(tuple(names), blocks, components)


def block_of(name: str) -> tuple[str, int] | None:
    """Return a tensor's block: its stack, by the name prefix, and its number there; None outside blocks."""
    found = _BLOCK.search(name)
    return None if found is None else (name[: found.start()], int(found.group(1)))


def in_block(name: str, number: int) -> str:
    """Return the name of the same tensor in another block of its stack; outside blocks, the name itself."""
    found = _BLOCK.search(name)
    return name if found is None else f"{name[: found.start(1)]}{number}{name[found.end(1) :]}"


def tensor_depths(layout: Layout) -> dict[str, float]:
    """Return tensor -> depth: 0 for embeddings, 1 for other tensors outside blocks, blocks evenly in between."""
    places = zip(layout.names, layout.blocks, layout.components, strict=True)
    last = layout.n_blocks + 1
    return {
        name: float(component != "embedding") if block is None else (block + 1) / last
        for name, block, component in places
    }


def _depth_key(place: tuple[str, int]) -> tuple[bool, str, int]:
    stack, number = place
    return _LATER_STACK.search(stack) is not None, stack, number


def _first(patterns: Sequence[tuple[str, re.Pattern[str]]], name: str) -> str:
    return next((component for component, pattern in patterns if pattern.search(name)), "other")
