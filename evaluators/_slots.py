"""A key-value cache whose rows have lengths of their own, so that rows can leave a batch and others can enter it."""

from collections.abc import Sequence
from functools import partial
from typing import Any, cast
from weakref import proxy

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin


class Slots(Cache):  # type: ignore[misc] # transformers has no types
    """Keys and values of several texts, each at the positions of its own tokens.

    lengths: tokens that each row has, (n_rows,); the caller adds those of a forward pass after it. capacity: tokens
    that a row has room for. Call `expect` before every forward pass.
    """

    def __init__(self, lengths: Sequence[int], capacity: int, device: torch.device) -> None:
        super().__init__(layer_class_to_replicate=partial(_Layer, cast(Slots, proxy(self))))
        self.lengths, self.capacity = list(lengths), capacity
        self._device = device

    def layer(self) -> "_Layer":
        """Return a layer that has no keys and values yet."""
        return _Layer(cast(Slots, proxy(self)))

    def expect(self, n_new: int) -> Tensor:
        """Prepare for `n_new` tokens in every row; return their positions, (n_rows, n_new)."""
        lengths = torch.tensor(self.lengths, device=self._device)
        self.rows = torch.arange(len(lengths), device=self._device)[:, None]
        self.places = lengths[:, None] + torch.arange(n_new, device=self._device)
        self.end = max(self.lengths) + n_new
        return self.places

    def put(self, layers: Sequence[Any]) -> None:
        """Copy another cache, with keys and values (n_rows, n_heads, n_tokens, width), to the beginning of the rows."""
        for other in layers:
            layer = self.layer()
            layer.lazy_initialization(other.keys, other.values)
            layer.keys[:, :, : other.keys.shape[2]] = other.keys
            layer.values[:, :, : other.values.shape[2]] = other.values
            self.layers.append(layer)


class _Layer(CacheLayerMixin):  # type: ignore[misc] # transformers has no types
    """Keys and values of one layer of the network, (n_rows, n_heads, capacity, width).

    slots: those that hold the layer, as a weak reference: in a cycle, the tensors of every batch would stay in memory
    until Python looks for cycles, which can be hundreds of candidates later.
    """

    is_sliding = False

    def __init__(self, slots: Slots) -> None:
        super().__init__()
        self._slots = slots

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Make room; zeros, since attention multiplies hidden values by 0, which NaN would survive."""
        self.keys, self.values = (
            _room(states, len(states), self._slots.capacity) for states in (key_states, value_states)
        )
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *_args: Any, **_options: Any) -> tuple[Tensor, Tensor]:
        """Write new tokens after each row's own, and return all tokens up to the end of the longest row."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        rows, places = (index.to(key_states.device) for index in (self._slots.rows, self._slots.places))
        self.keys[rows, :, places] = key_states.transpose(1, 2)
        self.values[rows, :, places] = value_states.transpose(1, 2)
        return self.keys[:, :, : self._slots.end], self.values[:, :, : self._slots.end]

    def get_seq_length(self) -> int:
        """Return the number of tokens of the longest row."""
        return max(self._slots.lengths)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return the number of tokens that a pass can see, and the position of the first."""
        return max(self._slots.lengths) + query_length, 0

    def get_max_length(self) -> int:
        """Return the room of a row in tokens."""
        return self._slots.capacity


def joined(parts: Sequence[tuple[Slots, Sequence[int]]], capacity: int) -> Slots:
    """Move some rows of each part into new slots, in that order; the parts are emptied layer by layer."""
    chosen = [(part, rows) for part, rows in parts if rows]
    device = chosen[0][0]._device
    found = Slots([part.lengths[row] for part, rows in chosen for row in rows], capacity, device)
    for layers in zip(*(part.layers for part, _ in chosen), strict=True):
        layer = found.layer()
        for name in ("keys", "values"):
            states = [getattr(old, name) for old in layers]
            room = _room(states[0], len(found.lengths), capacity)
            begin = 0
            for (_, rows), state in zip(chosen, states, strict=True):
                used = min(state.shape[2], capacity)
                index = torch.tensor(rows, device=state.device)
                room[begin : begin + len(rows), :, :used] = state[index, :, :used]
                begin += len(rows)
            setattr(layer, name, room)
        layer.is_initialized = True
        for old in layers:
            old.keys = old.values = None
        found.layers.append(layer)
    return found


def _room(states: Tensor, n_rows: int, capacity: int) -> Tensor:
    return states.new_zeros(n_rows, states.shape[1], capacity, states.shape[3])
