"""Log-likelihoods of continuations: tokens, batches and shared prefixes are prepared once, then only forward passes.

With gradients, prefixes that several examples share are not cached.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evaluators._forward import Batch, Reader, agree, attempt, collate
from evaluators._rows import Example, Row, Tokens, branched_row, by_prefix, packed, plain_rows, prefixes, prepare
from evaluators._tokens import batch_limit, batches
from evaluators.base import FloatArray

__all__ = ["Answers", "Likelihoods", "Tokens"]

#: Number of example subsets whose batches are kept (the splits, and the subsets of a race).
KEPT_PLANS = 8
#: Maximum number of logits of one batch, on a CPU and on an accelerator.
LOGITS, LOGITS_ON_ACCELERATOR = 2**26, 2**28
#: Tokens of the longest examples with which the shortcuts are tested.
TRIED = 512


@dataclass(frozen=True)
class Answers:
    """Results of one example's queries: loglikelihoods in nats (n_queries,), and whether greedy decoding
    would generate each continuation (n_queries,)."""

    loglikelihoods: FloatArray
    greedy: NDArray[np.bool_]


@dataclass(frozen=True)
class _Ways:
    """Shortcuts that a network supports. gathers: logits only where needed. shares: shared tokens read once.

    None: the weights yielded NaN, so that it is unknown.
    """

    gathers: bool | None
    shares: bool | None


class Likelihoods:
    """Scores fixed queries under any weights.

    examples: for each example its (context, continuation) pairs, as tokens. Raises EvaluatorError if a
    continuation does not fit into max_length tokens; longer contexts are truncated at the beginning. notes: how many
    are.
    """

    def __init__(
        self, examples: Sequence[Sequence[tuple[Tokens, Tokens]]], max_length: int, batch_tokens: int | None
    ) -> None:
        firsts = np.cumsum([0, *map(len, examples)]).tolist()
        self._examples = [prepare(pairs, max_length, first) for pairs, first in zip(examples, firsts, strict=False)]
        self._prefixes = prefixes(self._examples)
        self._n_queries = firsts[-1]
        self._batch_tokens = batch_tokens
        self.notes = _cut([example.longest for example in self._examples], max_length)
        self._plans: dict[tuple[tuple[int, ...], str, int, bool], list[Batch]] = {}
        self._ways: dict[type, _Ways] = {}

    @torch.no_grad()
    def run(self, network: Any, which: Sequence[int]) -> list[Answers]:
        """Return the answers of the examples `which`, in that order."""
        if not which:
            return []
        ways = self._ways_of(network)
        reader = Reader(network, gathers=ways.gathers is not False)
        sums, greedy = self._score(reader, self._plan(tuple(which), network, bool(ways.shares)))
        found = []
        for example in which:
            first = self._examples[example].first
            queries = slice(first, first + len(self._examples[example].queries))
            found.append(Answers(sums[queries], greedy[queries]))
        return found

    def with_gradients(self, network: Any, which: Sequence[int]) -> list[Tensor]:
        """Return differentiable log-likelihoods of the queries of the examples `which`, each (n_queries,)."""
        with torch.no_grad():
            ways = self._ways_of(network)
        reader = Reader(network, gathers=ways.gathers is not False)
        examples = [self._examples[i] for i in which]
        return differentiable(reader, network, examples, branches=bool(ways.shares), batch_tokens=self._batch_tokens)

    def sizes(self, example: int) -> list[int]:
        """Return the number of tokens of each continuation of an example."""
        return [len(targets) for _, _, targets in self._examples[example].queries]

    def _score(self, reader: Reader, plan: Sequence[Batch]) -> tuple[FloatArray, NDArray[np.bool_]]:
        """Return log-likelihood and greediness of every query; 0 and True for those outside the plan."""
        sums, greedy = np.zeros(self._n_queries), np.ones(self._n_queries, dtype=bool)
        for batch in plan:
            likelihoods, best = reader.score(batch)
            np.add.at(sums, batch.query, likelihoods)
            np.logical_and.at(greedy, batch.query, best)
        return sums, greedy

    def _plan(self, which: tuple[int, ...], network: Any, sharing: bool) -> list[Batch]:
        key = (which, str(network.device), batch_limit(self._batch_tokens, network), sharing)
        if key not in self._plans:
            if len(self._plans) >= KEPT_PLANS:
                self._plans.pop(next(iter(self._plans)))
            self._plans[key] = self._batches(which, network, sharing)
        return self._plans[key]

    def _batches(self, which: Sequence[int], network: Any, sharing: bool) -> list[Batch]:
        """Batch the longest rows first, to run out of memory early; depends on lengths and prefixes only."""
        rows = self._rows(which) if sharing else plain([self._examples[i] for i in which])
        return collated(rows, network, self._batch_tokens)

    def _rows(self, which: Sequence[int]) -> list[tuple[Tokens, list[Row]]]:
        """Return rows by prefix; without one, rows that need a mask are separate from those that need none."""
        found: list[tuple[Tokens, list[Row]]] = []
        for prefix, members in by_prefix((self._examples[i] for i in which), (self._prefixes[i] for i in which)):
            if prefix:
                found.append((prefix, packed([branched_row(example, len(prefix)) for example in members])))
                continue
            found += _branched(members)
        return found

    def _ways_of(self, network: Any) -> _Ways:
        """Return the shortcuts that the network supports, tested once on the longest examples."""
        known = self._ways.get(type(network))
        if known is None:
            known = self._try(network)
            if None not in (known.gathers, known.shares):
                self._ways[type(network)] = known
        return known

    def _try(self, network: Any) -> _Ways:
        longest = max((text for example in self._examples for text in example.texts), key=len)
        gathers = attempt(lambda: Reader(network).agrees_on_head(longest))
        reader = Reader(network, gathers=gathers is not False)
        return _Ways(gathers, attempt(lambda: self._shares(network, reader)))

    def _shares(self, network: Any, reader: Reader) -> bool | None:
        """Return whether shared tokens may be read once: the longest examples that share tokens are read both ways."""
        sharing = [i for i, length in enumerate(self._prefixes) if length or self._examples[i].worth_branching]
        if not sharing:
            return False
        tried = self._longest(sharing)
        if not reader.can_branch(max(self._examples[tried[0]].texts, key=len)):
            return False
        plain, _ = self._score(reader, self._batches(tried, network, sharing=False))
        short, _ = self._score(reader, self._batches(tried, network, sharing=True))
        return agree(plain, short, network.dtype)

    def _longest(self, which: Sequence[int]) -> list[int]:
        """Return the longest of these examples, as many as fill TRIED tokens, at least two."""

        def size(i: int) -> tuple[int, int]:
            example: Example = self._examples[i]
            return max(map(len, example.texts)), example.branched

        chosen: list[int] = []
        total = 0
        for i in sorted(which, key=size, reverse=True):
            if total >= TRIED and len(chosen) > 1:
                break
            chosen.append(i)
            total += self._examples[i].branched
        return chosen


def differentiable(
    reader: Reader, network: Any, examples: Sequence[Example], *, branches: bool, batch_tokens: int | None
) -> list[Tensor]:
    """Return the log-likelihoods of the examples' queries, each (n_queries,), with gradients.

    branches: whether the network can read a prompt once that several answers share.
    """
    plan = collated(_branched(examples) if branches else plain(examples), network, batch_tokens)
    tokens = torch.cat([reader.likelihoods(batch) for batch in plan])
    queries = [example.first + i for example in examples for i in range(len(example.queries))]
    place = {query: i for i, query in enumerate(queries)}
    owner = [place[query] for query in chain.from_iterable(batch.query.tolist() for batch in plan)]
    sums = torch.zeros(len(queries), device=tokens.device).index_add(
        0, torch.tensor(owner, device=tokens.device), tokens
    )
    return list(torch.split(sums, [len(example.queries) for example in examples]))


def plain(examples: Sequence[Example]) -> list[tuple[Tokens, list[Row]]]:
    """Return rows without a prefix, one for each text."""
    return [((), [row for example in examples for row in plain_rows(example)])]


def _branched(examples: Sequence[Example]) -> list[tuple[Tokens, list[Row]]]:
    """Return rows without a prefix; those that need a mask are separate from those that need none."""
    branched = [branched_row(example, 0) for example in examples if example.worth_branching]
    plain = [row for example in examples if not example.worth_branching for row in plain_rows(example)]
    return [((), rows) for rows in (plain, branched) if rows]


def collated(groups: Sequence[tuple[Tokens, list[Row]]], network: Any, batch_tokens: int | None) -> list[Batch]:
    """Split the rows after each prefix into batches, the longest rows first."""
    device = network.device
    limit = batch_limit(batch_tokens, network)
    n_logits = LOGITS if device.type == "cpu" else LOGITS_ON_ACCELERATOR
    places = max(1, n_logits // _vocabulary(network))
    found = []
    for prefix, rows in groups:
        sizes = [len(row.tokens) for row in rows]
        scored = [len({one.index for one in row.scored}) for row in rows]
        parts = batches(sizes, limit, before=len(prefix), places=scored, most_places=places)
        found += [collate([rows[i] for i in part], prefix, device) for part in parts]
    return found


def _cut(sizes: Sequence[int], max_length: int) -> tuple[str, ...]:
    count = sum(size > max_length + 1 for size in sizes)
    if not count:
        return ()
    note = (
        f"{count} of {len(sizes)} prompts are truncated at the beginning: the longest has {max(sizes)} tokens with its "
        f"continuation, and the model reads {max_length}; shorten them, or use fewer solved examples"
    )
    return (note,)


def _vocabulary(network: Any) -> int:
    config = getattr(network.config, "text_config", None) or network.config
    return int(getattr(config, "vocab_size", None) or 1)
