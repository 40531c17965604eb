"""Whole next-token distributions, or final hidden states, at fixed positions of fixed texts under any weights.

Shapes: n_positions predictions of one example, n_places those of one batch.
"""

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from evaluators._forward import FLOATS_AT_ONCE, Batch, GatherTest, Reader
from evaluators._likelihood import collated, plain
from evaluators._rows import Tokens, prepare
from evaluators.base import EvaluatorError

#: Smallest log-probability that enters a sum: a probability of 0 times its logarithm is 0, not NaN.
LEAST = -1e4

#: (logits in float32 (n_places, vocabulary), numbers of their positions (n_places,)) -> a value of each, (n_places,).
Measure = Callable[[Tensor, Tensor], Tensor]


class Predictions:
    """The predictions of the tokens of fixed continuations after fixed contexts.

    Args:
        examples: For each example its (context, continuation) pairs, as tokens. Longer contexts than `max_length` are
            truncated at the beginning.
        max_length: Context length in tokens.
        batch_tokens: Maximum tokens per batch; None for what was chosen for the network.
        may_gather: Whether the head of a network may read only some positions; by default tested with these texts.

    Raises:
        EvaluatorError: A continuation is empty, or does not fit into `max_length` tokens.
    """

    def __init__(
        self,
        examples: Sequence[Sequence[tuple[Tokens, Tokens]]],
        max_length: int,
        batch_tokens: int | None,
        may_gather: GatherTest | None = None,
    ) -> None:
        firsts = list(accumulate(map(len, examples), initial=0))
        self._examples = [prepare(pairs, max_length, first) for pairs, first in zip(examples, firsts, strict=False)]
        sizes = [len(targets) for example in self._examples for _, _, targets in example.queries]
        self._starts = list(accumulate(sizes, initial=0))
        self._batch_tokens = batch_tokens
        texts = (text for example in self._examples for text in example.texts)
        self._may_gather = may_gather or GatherTest(max(texts, key=len))

    @property
    def n_positions(self) -> int:
        """Number of positions of all examples; they are numbered in the order of the examples."""
        return self._starts[-1]

    def positions(self, example: int) -> slice:
        """Return the numbers of an example's positions."""
        found = self._examples[example]
        return slice(self._starts[found.first], self._starts[found.first + len(found.queries)])

    def of(self, network: Any, which: Sequence[int], measure: Measure) -> list[Tensor]:
        """Return the measured values of the examples `which`, each (n_positions,), with gradients where enabled."""
        reader = Reader(network, gathers=self._may_gather(network))
        values, numbers = [], []
        for batch in self._batches(network, which):
            logits = reader.logits(batch.tokens, batch.rows, batch.columns, {"use_cache": False})
            own = self._numbers(batch)
            step = max(1, FLOATS_AT_ONCE // logits.shape[-1])
            for start in range(0, len(own), step):
                part = slice(start, start + step)
                values.append(measure(logits[batch.place[part]].float(), own[part]))
            numbers.append(own)
        return self._by_example(torch.cat(values), torch.cat(numbers), which)

    def states(self, network: Any, which: Sequence[int]) -> Tensor:
        """Return the final hidden states, which the head reads, in float32: (n_positions of all of `which`, width)."""
        found, numbers = [], []
        for batch in self._batches(network, which):
            found.append(_head_inputs(network, batch)[batch.place].float())
            numbers.append(self._numbers(batch))
        return torch.cat(self._by_example(torch.cat(found), torch.cat(numbers), which))

    def _batches(self, network: Any, which: Sequence[int]) -> list[Batch]:
        return collated(plain([self._examples[i] for i in which]), network, self._batch_tokens)

    def _numbers(self, batch: Batch) -> Tensor:
        """Return the number of every scored token's position; those of a query follow each other."""
        seen: dict[int, int] = {}
        found = []
        for query in batch.query.tolist():
            count = seen.get(query, 0)
            found.append(self._starts[query] + count)
            seen[query] = count + 1
        return torch.tensor(found, device=batch.place.device)

    def _by_example(self, values: Tensor, numbers: Tensor, which: Sequence[int]) -> list[Tensor]:
        """Sort values by the numbers of their positions, and split them by example."""
        place = {number: i for i, number in enumerate(numbers.tolist())}
        wanted = [self.positions(example) for example in which]
        order = [place[number] for part in wanted for number in range(part.start, part.stop)]
        ordered = values[torch.tensor(order, device=values.device)]
        return list(torch.split(ordered, [part.stop - part.start for part in wanted]))


def entropy(logits: Tensor) -> Tensor:
    """Return the Shannon entropies of distributions in nats, (n,), from their logits, (n, n_outcomes)."""
    likely = logits.log_softmax(-1).clamp(min=LEAST)
    return -(likely.exp() * likely).sum(-1)


def _head_inputs(network: Any, batch: Batch) -> Tensor:
    """Return the input of the output embeddings at the batch's places, (n_places, width)."""
    found: list[Tensor] = []

    def keep(_module: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if not inputs or inputs[0].shape[:2] != batch.tokens.shape:
            return None
        hidden = inputs[0]
        found.append(hidden[batch.rows.to(hidden.device), batch.columns.to(hidden.device)])
        return (hidden[:, :1], *inputs[1:])  # the logits are not read: compute few

    handle = network.get_output_embeddings().register_forward_pre_hook(keep)
    try:
        network(input_ids=batch.tokens, use_cache=False)
    finally:
        handle.remove()
    if not found:
        raise EvaluatorError(
            f"The head of {type(network).__name__} does not read one hidden state per token; use another evaluator."
        )
    return found[0]
