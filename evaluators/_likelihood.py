"""Log-likelihoods of continuations: tokens, batches and shared prefixes prepared once, then forwards only.

Vocabulary: a query is one continuation behind one context; an example owns one or more queries (its
answers). Queries that read the same tokens share a row. width: tokens of the longest row of a batch.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from evaluators._tokens import batch_limit, batches
from evaluators.base import EvaluatorError, FloatArray

Tokens = tuple[int, ...]

#: The context is read once per example when that saves at least a quarter of the tokens.
WORTH_SHARING = 0.75
#: Logits turned into float32 at a time.
FLOATS_AT_ONCE = 2**24
#: Subsets of the examples whose batches are kept (the splits, and those of a race).
KEPT_PLANS = 8
#: Mean difference per token, in nats, below which both ways of reading a prompt count as the same.
TOLERANCE, HALF_TOLERANCE = 1e-3, 0.1


@dataclass(frozen=True)
class Answers:
    """Results of one example's queries: loglikelihoods in nats (n_queries,), and whether greedy decoding
    would write each continuation (n_queries,)."""

    loglikelihoods: FloatArray
    greedy: NDArray[np.bool_]


@dataclass(frozen=True)
class _Query:
    row: int
    start: int
    targets: Tokens


@dataclass(frozen=True)
class _Example:
    """rows: distinct inputs. shared: leading tokens that all rows share and at which nothing is scored."""

    rows: tuple[Tokens, ...]
    queries: tuple[_Query, ...]
    shared: int


@dataclass(frozen=True)
class _Batch:
    """Tensors of one forward pass. Scored tokens stand query by query.

    tokens: (n_rows, width), padded on the right, which a causal model never reads. owner: example of each
    row. heads: one row of each example. shared: tokens read once per example; 0 = not worth it.
    positions: where any row is scored. row, column (into positions), target: (n_scored,) tokens.
    starts: where each query begins among them (n_queries,). n_queries: of each example.
    """

    tokens: torch.Tensor
    owner: torch.Tensor
    heads: torch.Tensor
    shared: int
    positions: torch.Tensor
    row: torch.Tensor
    column: torch.Tensor
    target: torch.Tensor
    starts: NDArray[np.int64]
    n_queries: tuple[int, ...]


class Likelihoods:
    """Scores fixed queries under any weights.

    examples: for each example its (context, continuation) pairs, as tokens. Raises EvaluatorError when a
    continuation does not fit into max_length tokens; longer contexts lose their beginning.
    """

    def __init__(
        self, examples: Sequence[Sequence[tuple[Tokens, Tokens]]], max_length: int, batch_tokens: int | None
    ) -> None:
        self._examples = [_prepare(pairs, max_length) for pairs in examples]
        self._batch_tokens = batch_tokens
        self._plans: dict[tuple[tuple[int, ...], str], list[tuple[list[int], _Batch]]] = {}
        self._sharing: bool | None = None

    @torch.no_grad()
    def run(self, network: Any, which: Sequence[int]) -> list[Answers]:
        """Answers of the examples `which`, in that order."""
        answers: dict[int, Answers] = {}
        for members, batch in self._plan(tuple(which), network.device):
            likelihood, greedy = self._score(network, batch)
            sums = np.add.reduceat(likelihood, batch.starts)
            exact = np.logical_and.reduceat(greedy, batch.starts)
            ends = np.cumsum(batch.n_queries)
            for member, count, end in zip(members, batch.n_queries, ends, strict=True):
                answers[member] = Answers(sums[end - count : end], exact[end - count : end])
        return [answers[example] for example in which]

    def _plan(self, which: tuple[int, ...], device: torch.device) -> list[tuple[list[int], _Batch]]:
        key = (which, str(device))
        if key not in self._plans:
            sizes = [(len(self._examples[i].rows), max(map(len, self._examples[i].rows))) for i in which]
            groups = [[which[k] for k in group] for group in batches(sizes, batch_limit(self._batch_tokens, device))]
            plan = [(group, _collate([self._examples[i] for i in group], device)) for group in groups]
            if len(self._plans) >= KEPT_PLANS:
                self._plans.pop(next(iter(self._plans)))
            self._plans[key] = plan
        return self._plans[key]

    def _score(self, network: Any, batch: _Batch) -> tuple[FloatArray, NDArray[np.bool_]]:
        """Log-likelihood and greediness of every scored token.

        Reading the shared tokens once needs a cache that the architecture handles exactly: the first such
        batch is read both ways, and if they differ the short way is not taken again.
        """
        if not batch.shared or self._sharing is False:
            return _plain(network, batch)
        short = _shared(network, batch)
        if self._sharing is None or short is None:
            full = _plain(network, batch)
            self._sharing = short is not None and _agree(full[0], short[0], network.dtype)
            return full if short is None or not self._sharing else short
        return short


def _prepare(pairs: Sequence[tuple[Tokens, Tokens]], max_length: int) -> _Example:
    rows: dict[Tokens, int] = {}
    queries = []
    for context, continuation in pairs:
        if not 0 < len(continuation) <= max_length:
            raise EvaluatorError(f"A continuation has {len(continuation)} tokens; the model takes 1 to {max_length}.")
        tokens = (context + continuation)[-(max_length + 1) :][:-1]
        row = rows.setdefault(tokens, len(rows))
        queries.append(_Query(row, len(tokens) - len(continuation), continuation))
    if not queries:
        raise EvaluatorError("An example has nothing to score; expected at least one continuation.")
    inputs = tuple(rows)
    common = min(_common_prefix(inputs[0], other) for other in inputs)
    return _Example(inputs, tuple(queries), min(common, *(query.start for query in queries)))


def _common_prefix(first: Tokens, second: Tokens) -> int:
    length = min(len(first), len(second))
    return next((i for i in range(length) if first[i] != second[i]), length)


def _collate(examples: Sequence[_Example], device: torch.device) -> _Batch:
    rows = [row for example in examples for row in example.rows]
    width = max(map(len, rows))
    tokens = torch.tensor([row + (0,) * (width - len(row)) for row in rows], device=device)
    counts = [len(example.rows) for example in examples]
    firsts = np.cumsum([0, *counts[:-1]])
    shared = min(example.shared for example in examples)
    cost = len(examples) * shared + len(rows) * (width - shared)
    scored = [
        (int(first) + query.row, query.start + i, target)
        for first, example in zip(firsts, examples, strict=True)
        for query in example.queries
        for i, target in enumerate(query.targets)
    ]
    positions = sorted({position for _, position, _ in scored})
    column = {position: i for i, position in enumerate(positions)}
    lengths = [len(query.targets) for example in examples for query in example.queries]
    return _Batch(
        tokens=tokens,
        owner=torch.arange(len(examples), device=device).repeat_interleave(torch.tensor(counts, device=device)),
        heads=torch.tensor(firsts, device=device),
        shared=shared if cost <= WORTH_SHARING * len(rows) * width else 0,
        positions=torch.tensor(positions, device=device),
        row=torch.tensor([row for row, _, _ in scored], device=device),
        column=torch.tensor([column[position] for _, position, _ in scored], device=device),
        target=torch.tensor([target for _, _, target in scored], device=device),
        starts=np.cumsum([0, *lengths[:-1]]),
        n_queries=tuple(len(example.queries) for example in examples),
    )


def _plain(network: Any, batch: _Batch) -> tuple[FloatArray, NDArray[np.bool_]]:
    return _pick(_logits(network, batch.tokens, batch.positions, use_cache=False), batch)


def _shared(network: Any, batch: _Batch) -> tuple[FloatArray, NDArray[np.bool_]] | None:
    """As _plain, with each example's shared tokens read once; None where the cache cannot be repeated."""
    heads = batch.tokens[batch.heads, : batch.shared]
    keep = {"logits_to_keep": 1} if _keeps_logits(network) else {}
    cache = getattr(network(input_ids=heads, use_cache=True, **keep), "past_key_values", None)
    if cache is None or not hasattr(cache, "batch_select_indices"):
        return None
    cache.batch_select_indices(batch.owner)
    rest = batch.tokens[:, batch.shared :]
    return _pick(_logits(network, rest, batch.positions - batch.shared, past_key_values=cache), batch)


def _logits(network: Any, tokens: torch.Tensor, positions: torch.Tensor, **options: Any) -> torch.Tensor:
    """Logits at `positions`: (n_rows, len(positions), vocabulary). The model's own head computes them."""
    if _keeps_logits(network):
        kept: torch.Tensor = network(input_ids=tokens, logits_to_keep=positions, **options).logits
        return kept
    whole: torch.Tensor = network(input_ids=tokens, **options).logits
    return whole[:, positions]


def _keeps_logits(network: Any) -> bool:
    return "logits_to_keep" in inspect.signature(network.forward).parameters


def _pick(logits: torch.Tensor, batch: _Batch) -> tuple[FloatArray, NDArray[np.bool_]]:
    size = max(1, FLOATS_AT_ONCE // logits.shape[-1])
    likelihoods, greedy = [], []
    for start in range(0, len(batch.target), size):
        part = slice(start, start + size)
        target = batch.target[part]
        scores = logits[batch.row[part], batch.column[part]].float()
        likelihoods.append(scores.gather(1, target[:, None])[:, 0] - scores.logsumexp(1))
        greedy.append(scores.argmax(1) == target)
    return torch.cat(likelihoods).cpu().numpy().astype(np.float64), torch.cat(greedy).cpu().numpy()


def _agree(full: FloatArray, short: FloatArray, dtype: torch.dtype) -> bool | None:
    """Whether both are the same but for rounding; None when broken weights leave nothing to compare."""
    if not np.isfinite(full).all():
        return None
    tolerance = TOLERANCE if dtype.itemsize >= torch.float32.itemsize else HALF_TOLERANCE
    return bool(np.abs(full - short).mean() < tolerance)
