"""State that a network keeps between forward passes: restored for each candidate, and verified to be complete.

A candidate's score must equal that of its export, loaded anew. Some networks remember earlier passes: RWKV divides its
weights at its first one, dynamic rotary embeddings keep the longest text. Buffers and plain attributes of modules are
restored; weights are merged again if a pass wrote to them; `Probe` verifies that nothing else remains.
"""

import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from evaluators.base import FloatArray
from evomerge.merging.models.network import quiet

#: Types of the attributes that are restored: immutable values.
_PLAIN = (bool, int, float, str, type(None))
#: Set by transformers with hooks that record hidden states. The hooks stay; without the mark, they would be set twice.
_HOOKED = "_output_capturing_hooks_installed"
#: Maximum number of output values to compare.
_VALUES = 2**16
#: Relative tolerance of outputs, by the largest one: smaller than any change of weights, larger than rounding.
_TOLERANCE = 1e-4


class NetworkState:
    """Snapshot of a network's buffers and plain attributes.

    written: tensors that merges write to; they are not restored, but `touched` tells whether a pass changed them.
    """

    def __init__(self, network: nn.Module, written: Iterable[Tensor]) -> None:
        resident = list(written)
        storages = {tensor.untyped_storage().data_ptr() for tensor in resident}
        self._plain = [(module, _plain(module)) for module in network.modules()]
        self._tensors = [
            (place, name, tensor, tensor.clone())
            for module in network.modules()
            for place in (module._buffers, vars(module))
            for name, tensor in place.items()
            if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() not in storages
        ]
        self._watched = [*network.parameters(), *resident]
        # Batch norm in training updates its running mean without a new version: buffers are compared by value.
        buffers = {tensor.untyped_storage().data_ptr() for tensor in network.buffers()}
        self._merged_buffers = [tensor for tensor in resident if tensor.untyped_storage().data_ptr() in buffers]
        self._versions: list[int] = []
        self._values: list[Tensor] = []
        self.mark()

    def mark(self) -> None:
        """Mark the current weights as unchanged."""
        self._versions = [tensor._version for tensor in self._watched]
        self._values = [tensor.clone() for tensor in self._merged_buffers]

    @property
    def touched(self) -> bool:
        """Return whether the weights were written to since `mark`."""
        return any(tensor._version != seen for tensor, seen in zip(self._watched, self._versions, strict=True)) or any(
            not torch.equal(tensor, seen) for tensor, seen in zip(self._merged_buffers, self._values, strict=True)
        )

    @property
    def changed(self) -> bool:
        """Return whether a pass changed buffers or plain attributes, so that `restore` would write to them."""
        return any(_plain(module) != kept for module, kept in self._plain) or any(
            place[name] is not tensor or not torch.equal(tensor, value) for place, name, tensor, value in self._tensors
        )

    def restore(self) -> None:
        """Restore buffers and plain attributes."""
        for module, kept in self._plain:
            now = _plain(module)
            if now != kept:
                for name in now.keys() - kept.keys():
                    delattr(module, name)
                vars(module).update(kept)
        for place, name, tensor, value in self._tensors:
            place[name] = tensor
            if not torch.equal(tensor, value):  # a backward pass still needs what a forward pass read
                tensor.copy_(value)


def _plain(module: nn.Module) -> dict[str, Any]:
    return {name: value for name, value in vars(module).items() if type(value) in _PLAIN and name != _HOOKED}


class Probe:
    """A repeatable forward pass of an evaluator: its first one without a cache of earlier tokens."""

    def __init__(self) -> None:
        self._call: tuple[tuple[Any, ...], dict[str, Any]] | None = None

    @property
    def captured(self) -> bool:
        """Whether a pass was captured."""
        return self._call is not None

    @contextmanager
    def watching(self, network: nn.Module) -> Iterator[None]:
        """Capture the arguments of the first pass within the context."""

        def keep(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if self._call is None and not _remembers(kwargs.get("past_key_values")):
                self._call = copy.deepcopy((args, kwargs))

        handle = network.register_forward_pre_hook(keep, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()

    def outputs(self, network: nn.Module) -> FloatArray | None:
        """Return output values of the network for these arguments, (n_values,); None if no pass was captured."""
        if self._call is None:
            return None
        args, kwargs = copy.deepcopy(self._call)
        with torch.inference_mode():
            found = [tensor.reshape(-1) for tensor in floats_in(network(*args, **kwargs))]
        total = sum(map(len, found))
        step = -(-total // _VALUES) or 1
        parts = [tensor[::step].double().cpu().numpy() for tensor in found]
        return np.concatenate(parts) if parts else np.zeros(0)


def agree(a: FloatArray | None, b: FloatArray | None) -> bool:
    """Return whether two outputs are equal up to rounding, or both missing."""
    if a is None or b is None:
        return a is b
    if a.shape != b.shape or not np.array_equal(np.isfinite(a), np.isfinite(b)):
        return False
    here = np.isfinite(a)
    return not here.any() or bool(np.abs(a[here] - b[here]).max() <= _TOLERANCE * np.abs(a[here]).max())


def _remembers(cache: Any) -> bool:
    return cache is not None and (not hasattr(cache, "get_seq_length") or cache.get_seq_length() > 0)


def floats_in(output: Any) -> Iterator[Tensor]:
    """Return the logits of an output; without any, all its numeric tensors."""
    logits = getattr(output, "logits", None)
    if isinstance(logits, Tensor):
        yield logits
    elif isinstance(output, Tensor):
        if output.is_floating_point():
            yield output
    elif isinstance(output, Mapping | tuple | list):
        for part in output.values() if isinstance(output, Mapping) else output:
            yield from floats_in(part)


def renewed(network: Any, kind: Any = None, config: Any = None) -> Any:
    """Build the network as transformers would load it now, sharing the same weights, without extra memory.

    kind, config: another class and configuration with parameters of the same names and shapes.
    """
    state = network.state_dict()
    with quiet():
        fresh = (kind or type(network)).from_pretrained(
            None,
            config=config or network.config,
            state_dict=dict(state),
            dtype=network.dtype,
            device_map=None if network.device.type == "cpu" else {"": network.device},
            local_files_only=True,
        )
    for name, parameter in network.named_parameters(remove_duplicate=False):
        module, _, own = name.rpartition(".")
        fresh.get_submodule(module)._parameters[own] = parameter
    for name, buffer in network.named_buffers(remove_duplicate=False):
        if name in state:
            module, _, own = name.rpartition(".")
            fresh.get_submodule(module)._buffers[own] = buffer
    if config is None and getattr(network, "generation_config", None) is not None:
        fresh.generation_config = network.generation_config
    return fresh.eval().requires_grad_(False)
