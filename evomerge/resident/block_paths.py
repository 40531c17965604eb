"""Paths through resident blocks: every model's blocks are in memory once, and a network points to some of them."""

from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from evomerge.merging.models.arrangeable import configured
from evomerge.merging.models.model import Model
from evomerge.recipe import Input, Merge, Recipe
from evomerge.resident.resident import ModelError, load_resident
from search_spaces.base import block_of, in_block


class BlockPaths:
    """A network whose list of blocks is replaced for every candidate.

    Blocks share their weights with the models that were loaded; only output projections with a scale are computed
    anew, with the bits of the export. Each place of a path has modules of its own, so that the same block can be at
    several places, with a slot of the key-value cache at each.

    Args:
        recipe: The models of the search, without a path.
        models: The opened models by name, the base first.
        tokenizer: Folder of the tokenizer.
        dtype: Dtype of the merged weights, None for the models' own.
        device: Torch device.
        compute: Dtype of the network, if different.
    """

    def __init__(
        self,
        recipe: Recipe,
        models: Mapping[str, Model],
        tokenizer: Path,
        dtype: torch.dtype | None,
        device: str,
        *,
        compute: torch.dtype | None = None,
    ) -> None:
        self._models, self._dtype = models, dtype
        self._names = {_identity(model): model.name for model in (recipe.base, *recipe.inputs)}
        (first, self._base), *others = models.items()
        self._loaded = {first: load_resident(self._base, tokenizer, dtype, device, compute=compute)}
        for name, model in others:  # a path has one dtype, whatever the files have
            width = self._loaded[first].network.dtype
            self._loaded[name] = load_resident(model, tokenizer, dtype, device, compute=width)
        self._blocks = {name: list(each.network.base_model.layers) for name, each in self._loaded.items()}
        self._outside = {name: _outside(each.network) for name, each in self._loaded.items()}
        #: The network of the base, with the weights of the path that was followed last.
        self.model = copy(self._loaded[first])
        self._followed: Merge | None = None
        self.forget()

    def forget(self) -> None:
        """Write all weights again: those of adapters, rounded ones, and any that a forward pass has changed."""
        self._followed = None
        with torch.no_grad():
            for name, each in self._loaded.items():
                for tensor, place in each.tensors.items():
                    place.copy_(self._rounded(self._models[name], tensor))
                each.settle()

    def follow(self, merge: Merge) -> None:
        """Let the network be a path, given as a recipe of slices. Raises ModelError for a path of other models."""
        if self._followed == merge:
            return
        self._followed = None
        network: Any = self.model.network
        labels = {each.name: self._label(each) for each in merge.recipe.inputs}
        origins = [
            (labels[next(iter(part.inputs))], part.base[1] + number)
            for part in merge.recipe.slices
            for number in range(part.blocks)
        ]
        _set_depth(network.config, configured(self._base, len(origins)))
        network.base_model.layers = nn.ModuleList(
            _at_place(self._blocks[name][number], place, network.config) for place, (name, number) in enumerate(origins)
        )
        ends, last = (labels[next(iter(part.inputs))] for part in (merge.recipe.slices[0], merge.recipe.slices[-1]))
        if ends != last:
            raise ModelError(f"A path has the embeddings and the head of one model; these are of {ends} and {last}.")
        for name, parameter in self._outside[ends].items():
            _put(network, name, parameter)
        self._scale(merge, origins)
        self.model.tensors = _tensors(network)
        self._followed = merge

    def depth(self, name: str) -> int:
        """Return the number of blocks of a model."""
        return len(self._blocks[name])

    def _label(self, model: Input) -> str:
        """Return the search's name of a model of a path. Raises ModelError for another model."""
        name = self._names.get(_identity(model))
        if name is None:
            raise ModelError(f"The path has blocks of {model.name} ({model.path}), which is not among {self._names}.")
        return name

    def _scale(self, merge: Merge, origins: Sequence[tuple[str, int]]) -> None:
        """Replace the parameters of the network that have a factor by their products with it."""
        network = self.model.network
        live = _tensors(network)
        table = merge.table.bind(tuple(live))
        for name, parameter in live.items():
            factor, place = float(table.at(name)["scale"][0]), block_of(name)
            if factor == 1.0 or place is None:
                continue
            label, number = origins[place[1]]
            scaled = self._rounded(self._models[label], in_block(name, number), factor)
            value = scaled.to(device=parameter.device, dtype=parameter.dtype)
            _put(network, name, nn.Parameter(value, requires_grad=False))

    def _rounded(self, model: Model, name: str, factor: float = 1.0) -> Tensor:
        """Return a tensor times a factor, rounded as in an export."""
        dtype = self._dtype if self._dtype is not None and model.mergeable(name) else model.dtype(name)
        tensor = model.tensor(name)
        return (tensor if factor == 1.0 else tensor.float() * factor).to(dtype)


def _identity(model: Input) -> tuple[str | None, ...]:
    return model.path, model.revision, model.adapter, model.adapter_revision


def _outside(network: Any) -> dict[str, Tensor]:
    """Return the parameters that are in no block, tied ones under each of their names."""
    inside = {id(parameter) for parameter in network.base_model.layers.parameters()}
    return {name: p for name, p in network.named_parameters(remove_duplicate=False) if id(p) not in inside}


def _tensors(network: Any) -> dict[str, Tensor]:
    """Return the parameters by the names of a checkpoint, which has tied ones once and repeated ones several times."""
    live = dict(network.named_parameters(remove_duplicate=False))
    ties: Mapping[str, str] = network.all_tied_weights_keys
    return {name: p for name, p in live.items() if name not in ties or live[ties[name]] is not p}


def _put(network: Any, name: str, parameter: Tensor) -> None:
    module, _, own = name.rpartition(".")
    network.get_submodule(module)._parameters[own] = parameter


def _set_depth(config: Any, wanted: Any) -> None:
    """Change the settings of a configuration that follow from the number of blocks."""
    for name in ("num_hidden_layers", "layer_types", "max_window_layers"):
        if hasattr(wanted, name):
            setattr(config, name, getattr(wanted, name))


def _at_place(block: nn.Module, place: int, config: Any) -> nn.Module:
    """Return the modules of a block for one place of a path, with the same parameters."""
    twin = _twin(block)
    for module in twin.modules():
        own = {"layer_idx": place, "config": config}  # layer_idx is the slot in the cache of keys and values
        vars(module).update({name: value for name, value in own.items() if name in vars(module)})
    return twin


def _twin(module: nn.Module) -> nn.Module:
    twin = copy(module)
    # The dictionaries of parameters, buffers, modules and hooks would be those of the original.
    twin.__dict__.update({name: copy(value) for name, value in vars(module).items() if isinstance(value, dict)})
    twin._modules = {name: None if child is None else _twin(child) for name, child in module._modules.items()}
    return twin
