"""A resident network with an expert's own classification head, where that has another number of labels."""

from collections.abc import Sequence
from copy import copy
from typing import Any

from torch import Tensor, nn

from evomerge.merging.models.model import Model
from evomerge.merging.models.network import configuration
from evomerge.resident.places import ModelError
from evomerge.resident.resident import ResidentModel


def with_own_head(model: ResidentModel, expert: Model, names: Sequence[str]) -> ResidentModel:
    """Return the same weights in a network that has some tensors of an expert's folder, and its labels.

    The network shares all other modules with the one it is made of, and is for reading its head.

    Args:
        model: The resident model.
        expert: Model with the tensors.
        names: Their names, as in its files.

    Raises:
        ModelError: A tensor is no parameter of the network by itself.
    """
    network = model.network
    paths = {parameter.data_ptr(): path for path, parameter in network.named_parameters()}
    twin = _shallow(network)
    for name in names:
        place = model.tensors[name]
        path = paths.get(place.data_ptr())
        if path is None or network.get_parameter(path).shape != place.shape:
            raise ModelError(
                f"{name} is no parameter of {type(network).__name__} by itself, so the head of {expert.path} cannot "
                "take its place: give all models heads with the same number of labels."
            )
        _replace(twin, path, expert.tensor(name).to(place.device, place.dtype))
    twin.config = configuration(expert)
    return model.read_with(twin, model.tokenizer if model.has_tokenizer else None)


def _replace(twin: Any, path: str, value: Tensor) -> None:
    """Set a parameter of a network, in copies of the modules that lead to it."""
    *modules, own = path.split(".")
    for module in modules:
        twin._modules[module] = _shallow(twin._modules[module])
        twin = twin._modules[module]
    twin._parameters[own] = nn.Parameter(value.clone(), requires_grad=False)


def _shallow(module: Any) -> Any:
    """Copy a module, but none of its parts."""
    made = copy(module)
    made._modules, made._parameters = dict(module._modules), dict(module._parameters)
    return made
