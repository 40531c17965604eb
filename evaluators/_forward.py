"""Efficient forward passes: logits only where needed, shared prefixes read once, several texts packed into one row.
Each shortcut is compared once with the plain forward pass, and not used on networks where the results differ."""

import copy
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from evaluators._rows import Row, Tokens
from evaluators.base import FloatArray

#: Number of logits converted to float32 at a time.
FLOATS_AT_ONCE = 2**24
#: Largest difference of a token's log-likelihood, in nats, at which two forward passes count as equal: in float32, and
#: in 16-bit types.
TOLERANCE, HALF_TOLERANCE = 1e-3, 0.25
#: Tokens used to test the head.
TRIED = 32


@dataclass(frozen=True)
class Batch:
    """Tensors of one forward pass.

    tokens: (n_rows, width), padded on the right. positions, until: as in Row, (n_rows, width); None for plain texts,
    whose padding a causal model never reads. prefix: tokens before every row. rows, columns: positions that are scored,
    (n_places,). place, target, query: of every scored token, (n_scored,).
    """

    tokens: Tensor
    positions: Tensor | None
    until: Tensor | None
    prefix: Tokens
    rows: Tensor
    columns: Tensor
    place: Tensor
    target: Tensor
    query: NDArray[np.int64]


def collate(rows: Sequence[Row], prefix: Tokens, device: torch.device) -> Batch:
    """Collate rows into one batch."""
    width = max(len(row.tokens) for row in rows)
    masked = bool(prefix) or any(row.masked for row in rows)

    def padded(name: str, fill: int) -> Tensor:
        values = (getattr(row, name) for row in rows)
        return torch.tensor([value + (fill,) * (width - len(value)) for value in values], device=device)

    scored = [(number, one) for number, row in enumerate(rows) for one in row.scored]
    places = {place: i for i, place in enumerate(dict.fromkeys((number, one.index) for number, one in scored))}
    return Batch(
        tokens=padded("tokens", 0),
        positions=padded("positions", 0) if masked else None,
        until=padded("until", width) if masked else None,
        prefix=prefix,
        rows=torch.tensor([row for row, _ in places], device=device),
        columns=torch.tensor([column for _, column in places], device=device),
        place=torch.tensor([places[number, one.index] for number, one in scored], device=device),
        target=torch.tensor([one.target for _, one in scored], device=device),
        query=np.array([one.query for _, one in scored]),
    )


class Reader:
    """Reads batches with one network. gathers: whether its head can be limited to the scored positions."""

    def __init__(self, network: Any, *, gathers: bool = True) -> None:
        self._network = network
        self._head = network.get_output_embeddings() if gathers else None
        self._takes = inspect.signature(network.forward).parameters
        self._cached: tuple[Tokens, Any] = ((), None)

    def score(self, batch: Batch) -> tuple[FloatArray, NDArray[np.bool_]]:
        """Return the log-likelihood of every scored token, and whether it is the most likely one."""
        likelihoods, greedy = self._read(batch)
        return numbers(likelihoods), greedy.cpu().numpy()

    def likelihoods(self, batch: Batch) -> Tensor:
        """Return the log-likelihood of every scored token as a differentiable tensor, (n_scored,), in float32."""
        return self._read(batch)[0]

    def _read(self, batch: Batch) -> tuple[Tensor, Tensor]:
        options: dict[str, Any] = {"use_cache": False}
        if batch.until is not None:
            mask = _mask(batch.until, len(batch.prefix), self._network.dtype)
            options |= {"attention_mask": mask, "position_ids": batch.positions}
        if batch.prefix:
            options |= {"past_key_values": self.behind(batch.prefix, len(batch.tokens)), "use_cache": True}
        return _pick(self.logits(batch.tokens, batch.rows, batch.columns, options), batch)

    def cache(self, tokens: Tokens) -> Any:
        """Return the network's cache for one text; None if it has none."""
        inputs = torch.tensor([tokens], device=self._network.device)
        keep = {"logits_to_keep": 1} if "logits_to_keep" in self._takes else {}
        return getattr(self._network(input_ids=inputs, use_cache=True, **keep), "past_key_values", None)

    def can_branch(self, text: Tokens) -> bool:
        """Return whether every layer is full attention at this length and accepts explicit positions."""
        if not {"position_ids", "attention_mask", "past_key_values"} <= set(self._takes):
            return False
        layers = getattr(self.cache(text), "layers", None) or [None]
        known = all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)
        return known and all(layer.keys is not None and layer.keys.shape[-2] == len(text) for layer in layers)

    def agrees_on_head(self, text: Tokens) -> bool | None:
        """Return whether the head gives the same logits at selected positions as at all; None if weights yield NaN."""
        tokens = torch.tensor([text[:TRIED]], device=self._network.device)
        columns = torch.arange(0, tokens.shape[1], 3, device=tokens.device)
        with _gathering(self._head, torch.zeros_like(columns), columns, tokens.shape) as used:
            some = self._network(input_ids=tokens, use_cache=False).logits[0]
        if not used:
            return False
        whole = self._network(input_ids=tokens, use_cache=False).logits[0, columns]
        return some.shape == whole.shape and agree(numbers(whole), numbers(some), self._network.dtype)

    def behind(self, prefix: Tokens, n_rows: int) -> Any:
        """Return the prefix's cache for `n_rows` rows; the prefix is read once while it stays the same."""
        if self._cached[0] != prefix:
            self._cached = (prefix, self.cache(prefix))
        # Layers grow by concatenation, so copies of them leave the original's tensors unchanged.
        cache = copy.copy(self._cached[1])
        cache.layers = [copy.copy(layer) for layer in cache.layers]
        cache.batch_repeat_interleave(n_rows)
        return cache

    def logits(self, tokens: Tensor, rows: Tensor, columns: Tensor, options: dict[str, Any]) -> Tensor:
        """Return the logits at some positions, (n_places, vocabulary), from the network's own forward.

        tokens: (n_rows, width). rows, columns: positions, (n_places,). options: other arguments of the forward.
        """
        if self._head is not None:
            with _gathering(self._head, rows, columns, tokens.shape):
                logits: Tensor = self._network(input_ids=tokens, **options).logits
            return logits[0]
        different, column = torch.unique(columns, return_inverse=True)
        if "logits_to_keep" in self._takes:
            kept: Tensor = self._network(input_ids=tokens, logits_to_keep=different, **options).logits
            return kept[rows, column]
        whole: Tensor = self._network(input_ids=tokens, **options).logits
        return whole[rows, columns]


def agree(plain: FloatArray, short: FloatArray, dtype: torch.dtype) -> bool | None:
    """Return whether both results are equal up to rounding; None if broken weights leave nothing to compare."""
    if not np.isfinite(plain).all():
        return None
    tolerance = TOLERANCE if dtype.itemsize >= torch.float32.itemsize else HALF_TOLERANCE
    return bool(np.abs(plain - short).max(initial=0.0) < tolerance)


def attempt(way: Callable[[], bool | None]) -> bool | None:
    """Return the result of `way`; False if the architecture rejects it with any exception."""
    try:
        return way()
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError):
        return False


class GatherTest:
    """Whether the head of a network may read only the scored positions; tested once per network class.

    text: tokens to test it with.
    """

    def __init__(self, text: Tokens) -> None:
        self._text = text
        self._known: dict[type, bool] = {}

    def __call__(self, network: Any) -> bool:
        """Return whether it may; also if the weights yield NaN, which gives no verdict."""
        known = self._known.get(type(network))
        if known is None:
            with torch.no_grad():
                found = attempt(lambda: Reader(network).agrees_on_head(self._text))
            if found is None:
                return True
            known = self._known[type(network)] = found
        return known


@contextmanager
def _gathering(head: Any, rows: Tensor, columns: Tensor, shape: torch.Size) -> Iterator[list[bool]]:
    """Pass only some positions' hidden states, (1, n_places, width), to the head, whatever the network does afterwards.

    Yields a list that is empty until the head has been called.
    """
    used: list[bool] = []

    def gather(_module: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if not inputs or inputs[0].shape[:2] != shape:
            return None
        used.append(True)
        hidden = inputs[0]
        return (hidden[rows.to(hidden.device), columns.to(hidden.device)].unsqueeze(0), *inputs[1:])

    handle = head.register_forward_pre_hook(gather)
    try:
        yield used
    finally:
        handle.remove()


def _mask(until: Tensor, n_before: int, dtype: torch.dtype) -> Tensor:
    """Return 0 for visible tokens and the lowest number for hidden ones: (n_rows, 1, width, n_before + width)."""
    width = until.shape[1]
    index = torch.arange(width, device=until.device)
    seen = (index[None, None, :] <= index[None, :, None]) & (index[None, :, None] < until[:, None, :])
    mask = torch.zeros(len(until), 1, width, n_before + width, dtype=dtype, device=until.device)
    mask[:, 0, :, n_before:].masked_fill_(~seen, torch.finfo(dtype).min)
    return mask


def _pick(logits: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the log-likelihoods of the scored tokens, and whether each is the most likely one: (n_scored,)."""
    size = max(1, FLOATS_AT_ONCE // logits.shape[-1])
    totals, best = [], []
    for start in range(0, len(logits), size):
        scores = logits[start : start + size].float()
        totals.append(scores.logsumexp(1))
        best.append(scores.argmax(1))
    chosen = logits[batch.place, batch.target].float()
    likelihoods = chosen - torch.cat(totals)[batch.place]
    greedy = torch.cat(best)[batch.place] == batch.target
    return likelihoods, greedy


def numbers(values: Tensor) -> FloatArray:
    """Convert to float64 on the CPU."""
    return values.float().cpu().numpy().astype(np.float64)
