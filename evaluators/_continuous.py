"""Greedy decoding with continuous batching: a row that ends leaves the batch, and a waiting prompt takes its place.

Iteration-level scheduling of Orca (Yu et al., 2022), https://www.usenix.org/conference/osdi22/presentation/yu
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from transformers import RepetitionPenaltyLogitsProcessor

from evaluators._forward import Reader
from evaluators._rows import Tokens
from evaluators._slots import Slots, joined
from evaluators._tokens import batches

#: Rows are replaced once 1 in RENEWED has ended: a new batch copies the cache, ended rows cost as much as others.
RENEWED = 8

#: Called with the rows of a step and their log-probabilities, (n_rows, vocabulary).
Watch = Callable[[Sequence["Row"], Tensor], None]


@dataclass(frozen=True)
class Rules:
    """When a continuation ends.

    n_new: its length limit in tokens. ends: end tokens. stopped: whether each of some continuations contains a stop
    string. penalty: factor by which the logits of earlier tokens are reduced, as in transformers; 1 for none.
    """

    n_new: int
    ends: frozenset[int]
    stopped: Callable[[Sequence[Sequence[int]]], Sequence[bool]]
    penalty: float = 1.0


@dataclass(eq=False)
class Row:
    """A prompt and its continuation. before: its first tokens, which other prompts share. finite: no logit was NaN."""

    number: int
    before: Tokens
    rest: Tokens
    written: list[int] = field(default_factory=list)
    finite: bool = True
    ended: bool = False

    @property
    def size(self) -> int:
        """Number of tokens of the prompt."""
        return len(self.before) + len(self.rest)


class Writer:
    """Continues prompts with one network.

    limit: tokens of all rows of a batch together, including the room for their continuations.
    """

    def __init__(self, reader: Reader, network: Any, rules: Rules, limit: int, watch: Watch | None = None) -> None:
        self._reader, self._network = reader, network
        self._rules, self._limit, self._watch = rules, limit, watch
        self._penalty = None if rules.penalty == 1 else RepetitionPenaltyLogitsProcessor(rules.penalty)

    def write(self, prompts: Sequence[tuple[int, Tokens, Tokens]]) -> list[Row]:
        """Return the rows of prompts, given as (number, shared tokens, others), each ended.

        Prompts that share tokens should be adjacent, and long ones come first.
        """
        rows = [Row(*prompt) for prompt in prompts]
        waiting, live = deque(rows), list[Row]()
        slots = None
        while waiting or not all(row.ended for row in live):
            left = [i for i, row in enumerate(live) if not row.ended]
            if (len(live) - len(left)) * RENEWED >= len(live):
                slots, live = self._renewed(slots, live, left, waiting)
            if live and slots is not None:
                self._step(slots, live)
        return rows

    def _renewed(
        self, slots: Slots | None, live: Sequence[Row], left: Sequence[int], waiting: deque[Row]
    ) -> tuple[Slots | None, list[Row]]:
        """Return a batch of the rows that are left, and of as many waiting ones as fit; these are read first."""
        kept = [live[i] for i in left]
        entering: list[Row] = []
        while waiting and self._fits([*kept, *entering, waiting[0]]):
            entering.append(waiting.popleft())
        parts = [] if slots is None else [(slots, kept, left)]
        for before, members in groupby(entering, key=lambda row: row.before):
            group = list(members)
            for chosen in batches([len(row.rest) for row in group], self._limit, before=len(before)):
                part = [group[i] for i in chosen]
                read = self._read(before, part)
                parts.append((read, part, [i for i, row in enumerate(part) if not row.ended]))
        rows = [row for _, members, _ in parts for row in members if not row.ended]
        if not rows:
            return None, []
        return joined([(part, chosen) for part, _, chosen in parts], self._room(rows)), rows

    def _fits(self, rows: Sequence[Row]) -> bool:
        return len(rows) == 1 or len(rows) * self._room(rows) <= self._limit

    def _room(self, rows: Sequence[Row]) -> int:
        return max(row.size for row in rows) + self._rules.n_new

    def _read(self, before: Tokens, rows: Sequence[Row]) -> Slots:
        """Read the prompts of some rows and write the first token of each."""
        device = self._network.device
        sizes = [len(row.rest) for row in rows]
        width = max(sizes)
        slots = Slots([len(before)] * len(rows), len(before) + width, device)
        if before:
            slots.put(self._reader.behind(before, len(rows)).layers)
        # Padding comes after the tokens of a row, which a causal network reads first: no mask is needed.
        tokens = torch.tensor([row.rest + (0,) * (width - len(row.rest)) for row in rows], device=device)
        options = {"past_key_values": slots, "use_cache": True, "position_ids": slots.expect(width)}
        places = torch.arange(len(rows), device=device), torch.tensor(sizes, device=device) - 1
        self._write(rows, self._reader.logits(tokens, *places, options))
        slots.lengths = [row.size for row in rows]
        return slots

    def _step(self, slots: Slots, rows: Sequence[Row]) -> None:
        """Write one more token of every row; what rows that have ended write is dropped."""
        device, dtype = self._network.device, self._network.dtype
        positions = slots.expect(1)
        hidden = torch.arange(slots.end, device=device) > positions
        mask = torch.zeros(len(rows), 1, 1, slots.end, dtype=dtype, device=device)
        mask[:, 0, 0].masked_fill_(hidden, torch.finfo(dtype).min)
        logits = self._network(
            input_ids=torch.tensor([[row.written[-1]] for row in rows], device=device),
            attention_mask=mask,
            position_ids=positions,
            past_key_values=slots,
            use_cache=True,
        ).logits[:, -1]
        slots.lengths = [n + (not row.ended) for n, row in zip(slots.lengths, rows, strict=True)]
        self._write(rows, logits)

    def _write(self, rows: Sequence[Row], logits: Tensor) -> None:
        """Append the most likely token to each row that has not ended; those with NaN end."""
        scores = logits.float()
        broken = scores.isnan().any(dim=1).tolist()
        if self._penalty is not None:
            scores = self._penalty(_seen(rows, scores.device), scores)
        if self._watch is not None:
            self._watch(rows, scores.log_softmax(-1))
        for row, token, nan in zip(rows, scores.argmax(dim=1).tolist(), broken, strict=True):
            if not row.ended:
                row.written.append(token)
                row.finite = not nan
        going = [row for row in rows if not row.ended]
        for row, stopped in zip(going, self._rules.stopped([row.written for row in going]), strict=True):
            last = row.written[-1] in self._rules.ends or len(row.written) >= self._rules.n_new
            row.ended = stopped or last or not row.finite


def _seen(rows: Sequence[Row], device: torch.device) -> Tensor:
    """Return the tokens of each row, the shorter ones filled up with their first token, (n_rows, n_tokens)."""
    texts = [(*row.before, *row.rest, *row.written) for row in rows]
    width = max(map(len, texts))
    return torch.tensor([text + text[:1] * (width - len(text)) for text in texts], device=device)
