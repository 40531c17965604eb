"""Mosaic: blocks of several models assembled into one of another depth. https://arxiv.org/abs/2312.15166."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from evomerge.merging.factors import Factors
from evomerge.merging.models.hashing import Digest, digest_of
from evomerge.merging.models.header import CheckpointError, shown
from evomerge.merging.models.model import Model
from evomerge.recipe import Recipe, Slice
from search_spaces.base import Layout, block_of, in_block

#: Keys of config.json for the number of blocks.
_DEPTHS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
#: One tensor of a mosaic: its model and its name there.
Piece = tuple[Model, str]


class Mosaic(Model):
    """Tensors of other models under the names of a new one.

    template: model whose configuration and tokenizer it has. pieces: name -> source of the tensor.
    """

    def __init__(self, template: Model, pieces: Mapping[str, Piece], config: Mapping[str, Any] | None) -> None:
        self.path = template.path
        self.config = None if config is None else MappingProxyType(dict(config))
        self.names = tuple(pieces)
        self._pieces = dict(pieces)

    @property
    def files(self) -> tuple[Path, ...]:
        """Return the files of all models that contribute tensors."""
        return tuple(dict.fromkeys(file for model, _ in self._pieces.values() for file in model.files))

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor."""
        model, source = self._pieces[name]
        return model.shape(source)

    def dtype(self, name: str) -> torch.dtype:
        """Return the dtype of a tensor as stored."""
        model, source = self._pieces[name]
        return model.dtype(source)

    def tensor(self, name: str) -> Tensor:
        """Return a tensor on the CPU; read-only."""
        model, source = self._pieces[name]
        return model.tensor(source)

    def made(self, name: str) -> bool:
        """Return whether the source model computes a tensor."""
        model, source = self._pieces[name]
        return model.made(source)

    def factors(self, name: str, base: Model) -> Factors | None:
        """Return the change to another mosaic, if both have the same block there."""
        if not isinstance(base, Mosaic) or base._pieces[name][1] != self._pieces[name][1]:
            return None
        model, source = self._pieces[name]
        return model.factors(source, base._pieces[name][0])

    def sha256(self, digest: Digest = digest_of) -> dict[str, str]:
        """Return the SHA-256 of every file by name."""
        models = dict.fromkeys(model for model, _ in self._pieces.values())
        return {name: found for model in models for name, found in model.sha256(digest).items()}


def assemble(recipe: Recipe, models: Mapping[str, Model]) -> dict[str, Model]:
    """Return the models of a sliced recipe, by name, as they enter the result: blocks in their new places.

    Tensors before the blocks (embeddings) come from the first slice's models, tensors after them (final norm, head)
    from the last slice's. An input has only the tensors of the slices that name it.
    Raises CheckpointError for missing blocks and for models with more than one stack.
    """
    blocks = {label: _blocks(label, model) for label, model in models.items()}
    config = _config(models[recipe.base.name], recipe.slices)

    def assembled(label: str) -> Model:
        pieces: dict[str, Piece] = {}
        place = 0
        for part in recipe.slices:
            origin = _origin(recipe, part, label)
            if origin is not None:
                name, first = origin
                pieces |= _pieces(name, models[name], blocks[name], range(first, first + part.blocks), place)
            place += part.blocks
        for part, behind in ((recipe.slices[0], False), (recipe.slices[-1], True)):
            origin = _origin(recipe, part, label)
            if origin is not None:
                model = models[origin[0]]
                pieces |= {name: (model, name) for name in _outside(model, behind=behind)}
        return Mosaic(models[label], _in_order(pieces), config)

    return {label: assembled(label) for label in models}


def _origin(recipe: Recipe, part: Slice, label: str) -> tuple[str, int] | None:
    """Return the model, and its first block, that acts as model `label` in a slice; None if it is absent."""
    if label == recipe.base.name:
        return part.base
    return (label, part.inputs[label]) if label in part.inputs else None


def _blocks(label: str, model: Model) -> dict[int, list[str]]:
    """Return block number -> tensors. Raises CheckpointError for a model with several stacks, or with gaps."""
    stacks: dict[str, dict[int, list[str]]] = {}
    for name in model.names:
        place = block_of(name)
        if place is not None:
            stacks.setdefault(place[0], {}).setdefault(place[1], []).append(name)
    if len(stacks) > 1:
        listed = ", ".join(f"{shown(stack)} ({len(blocks)})" for stack, blocks in list(stacks.items())[:5])
        raise CheckpointError(
            f"{label} ({model.path}) has {len(stacks)} stacks of blocks, and slices are for models with one: "
            f"{listed}{', ...' if len(stacks) > 5 else ''}. Merge it whole (`models` instead of `slices`), or slice "
            "models that are one of its stacks alone, such as its language model."
        )
    blocks = next(iter(stacks.values()), {})
    lacks = next((number for number in range(len(blocks)) if number not in blocks), None)
    if lacks is not None:
        raise CheckpointError(f"{label} ({model.path}) lacks block {lacks}, and has blocks up to {max(blocks)}.")
    return blocks


def _pieces(label: str, model: Model, blocks: Mapping[int, list[str]], wanted: range, place: int) -> dict[str, Piece]:
    """Return the tensors of the blocks `wanted`, renamed to begin at block `place`."""
    if wanted.stop > len(blocks):
        raise CheckpointError(
            f"A slice takes blocks {wanted.start} to {wanted.stop - 1} of {label} ({model.path}), "
            f"which has {len(blocks)}, counted from 0."
        )
    return {in_block(name, place + n): (model, name) for n, block in enumerate(wanted) for name in blocks[block]}


def _outside(model: Model, *, behind: bool) -> list[str]:
    layout = Layout.from_names(model.names)
    return [
        name
        for name, depth, component in zip(layout.names, layout.blocks, layout.components, strict=True)
        if depth is None and (component == "embedding") != behind
    ]


def _in_order(pieces: Mapping[str, Piece]) -> dict[str, Piece]:
    """Sort pieces like a checkpoint: embeddings, blocks by depth, the rest."""
    layout = Layout.from_names(tuple(pieces))

    def rank(item: tuple[str, int | None, str]) -> tuple[int, int]:
        _, depth, component = item
        return (0 if component == "embedding" else 2, 0) if depth is None else (1, depth)

    ordered = sorted(zip(layout.names, layout.blocks, layout.components, strict=True), key=rank)
    return {name: pieces[name] for name, _, _ in ordered}


def _config(template: Model, slices: Sequence[Slice]) -> dict[str, Any] | None:
    """Return the template's configuration for the new depth; lists with one entry per block follow their blocks."""
    if template.config is None:
        return None
    origins = [part.base[1] + n for part in slices for n in range(part.blocks)]
    return with_depth(dict(template.config), origins)


def with_depth(config: dict[str, Any], origins: Sequence[int]) -> dict[str, Any]:
    """Return a configuration with other blocks. origins: for each of them, the block that it is in the given one."""
    changed = dict(config)
    depth = next((config[key] for key in _DEPTHS if type(config.get(key)) is int), None)
    for key, value in config.items():
        if key in _DEPTHS:
            changed[key] = len(origins)
        elif isinstance(value, dict) and key.endswith("_config"):
            changed[key] = with_depth(value, origins)
        elif isinstance(value, list) and key.endswith("layers") and _are_places(value, depth):
            changed[key] = [place for place, origin in enumerate(origins) if origin in value]
        elif isinstance(value, list) and len(value) == depth and ("layer" in key or _are_sizes(key, value)):
            changed[key] = [value[origin % len(value)] for origin in origins]
        elif key == "max_window_layers" and type(value) is int:
            # Blocks below it have full attention; a deeper model must not begin to use windows because of its depth.
            changed[key] = len(origins) if depth is not None and value >= depth else value
    return changed


def _are_places(value: list[Any], depth: int | None) -> bool:
    """Return whether a list holds block numbers (mlp_only_layers: [0, 3]) rather than one entry per block."""
    numbers = all(type(entry) is int for entry in value)
    return numbers and depth is not None and value == sorted(set(value)) and all(0 <= n < depth for n in value)


def _are_sizes(key: str, value: list[Any]) -> bool:
    """Return whether a list may hold one number per block (intermediate_size: [48, 64]), unlike token ids."""
    return "token" not in key and all(type(entry) in (int, float) for entry in value)
