"""Positions of tensors in the slices of a mergekit configuration, and groups of tensors with equal coefficients."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from search_spaces.base import Layout, block_of, in_block

#: The number of a stage, in the name of a stack (`resnet.encoder.stages.0`).
_STAGE = re.compile(r"(?<=\.)\d+(?=\.|$)")

#: A tensor's values of one parameter: one per input, or one for all.
Row = tuple[float, ...]


@dataclass(frozen=True)
class Place:
    """A tensor of the result: its slice, and the position along the slice's layers, from 0 to 1, for gradients.

    offset: number of its layer within the slice; None outside layers.
    """

    tensor: str
    piece: int
    depth: float
    offset: int | None = None

    def in_source(self, first: int) -> str:
        """Return the tensor's name in a source of the slice that begins with a model's layer `first`."""
        return self.tensor if self.offset is None else in_block(self.tensor, first + self.offset)


def places(names: Sequence[str], blocks: Sequence[int] | None) -> list[Place]:
    """Return the positions of all tensors of the result. blocks: layers of each slice; None without slices.

    As in mergekit, tensors before the layers belong to the first slice, those after to the last, both
    at depth 0; the only layer of a slice is at depth 1. Without slices, every stack runs from 0 to 1.
    """
    layout = Layout.from_names(names)
    rows = list(zip(layout.names, layout.blocks, layout.components, strict=True))
    if blocks is None:
        depths = _depths(layout)
        return [Place(name, 0, depths.get(name, 0.0), _number(name)) for name in names]
    at = [(piece, offset, size) for piece, size in enumerate(blocks) for offset in range(size)]
    return [_sliced(name, block, component, at, len(blocks) - 1) for name, block, component in rows]


def _depths(layout: Layout) -> dict[str, float]:
    """Return the position, from 0 to 1, of each tensor in a block along its stack, whose stages are concatenated."""
    stacks: dict[str, dict[int, list[str]]] = {}
    for name, depth in zip(layout.names, layout.blocks, strict=True):
        place = block_of(name)
        if place is not None and depth is not None:
            stacks.setdefault(_STAGE.sub("", place[0]), {}).setdefault(depth, []).append(name)
    return {
        name: _depth(number, len(blocks))
        for blocks in stacks.values()
        for number, depth in enumerate(sorted(blocks))
        for name in blocks[depth]
    }


def _number(name: str) -> int | None:
    place = block_of(name)
    return None if place is None else place[1]


def _sliced(name: str, block: int | None, component: str, at: Sequence[tuple[int, int, int]], last: int) -> Place:
    if block is None:
        return Place(name, 0 if component == "embedding" else last, 0.0)
    piece, offset, size = at[block]
    return Place(name, piece, _depth(offset, size), offset)


def _depth(number: int, n_layers: int) -> float:
    return number / (n_layers - 1) if n_layers > 1 else 1.0


def grouped(values: Mapping[str, Mapping[str, Row]]) -> dict[str, tuple[str, ...]]:
    """Group tensors with equal values: all in one, by block, by component of a block, or numbered."""
    layout = Layout.from_names(tuple(values))
    rows = list(zip(layout.names, layout.blocks, layout.components, strict=True))
    by: Sequence[Callable[[int | None, str], str]] = (
        lambda _block, _component: "all",
        lambda block, component: component if block is None else f"block.{block}",
        lambda block, component: component if block is None else f"block.{block}.{component}",
    )
    for label in by:
        groups: dict[str, list[str]] = {}
        for name, block, component in rows:
            groups.setdefault(label(block, component), []).append(name)
        if all(values[name] == values[members[0]] for members in groups.values() for name in members):
            return {group: tuple(members) for group, members in groups.items()}
    return _numbered_groups(values)


def _numbered_groups(values: Mapping[str, Mapping[str, Row]]) -> dict[str, tuple[str, ...]]:
    found: dict[Any, list[str]] = {}
    for name, value in values.items():
        found.setdefault(tuple(value.items()), []).append(name)
    return {f"group.{n}": tuple(members) for n, members in enumerate(found.values())}
