"""Perplexity of a text: mean negative log-likelihood per token, window by window.

tasks:
  prose:
    evaluator: perplexity
    file: data/prose.txt           # or JSON lines: {"text": "…"}
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evaluators._examples import check_limit, read_json_lines, read_text
from evaluators._likelihood import Likelihoods, Tokens
from evaluators._networks import check_continues_text
from evaluators._tokens import PerTokenizer, encode, max_length, prefix_token
from evaluators.base import (
    NO_REFERENCES,
    Evaluator,
    EvaluatorError,
    LanguageModel,
    Preview,
    Scores,
    content_ids,
)

JSON_LINES = (".jsonl", ".ndjson")


class Perplexity(Evaluator):
    """Nats per token of each window, every token scored once; exp(mean) is a perplexity.

    Args:
        file: Text, or JSON lines (.jsonl, .ndjson) whose field `field` holds texts.
        field: Field with the text, for JSON lines.
        window: Window size in characters, cut at white space, so that examples do not depend on a tokenizer.
        limit: Use at most N windows.
        batch_tokens: Maximum tokens per batch; by default the search file's `batch_tokens`.
    """

    higher_is_better = False

    def __init__(
        self,
        *,
        file: str,
        field: str = "text",
        window: int = 1000,
        limit: int | None = None,
        batch_tokens: int | None = None,
    ) -> None:
        if window < 1:
            raise EvaluatorError(f"window is {window}; expected a number of characters, at least 1.")
        check_limit(limit)
        texts = (
            [str(line.field(field)) for line in read_json_lines(file)]
            if Path(file).suffix in JSON_LINES
            else [read_text(file)]
        )
        self._windows = [piece for text in texts for piece in _pieces(text, window)][:limit]
        if not self._windows:
            raise EvaluatorError(f"{file} has no text.")
        self._batch_tokens = batch_tokens
        self._ids = content_ids(self._windows)
        self._engine = PerTokenizer(self._prepare)

    @property
    def example_ids(self) -> tuple[str, ...]:
        """One id per window."""
        return self._ids

    def preflight(self, model: Any) -> tuple[str, ...]:
        """Tokenize the text. Raises EvaluatorError for windows that the model cannot read."""
        self._engine.of(model)
        return ()

    def preview(self, row: int) -> Preview:
        """Return the window, every token of which is scored."""
        return Preview("", (self._windows[row],))

    def score(self, model: LanguageModel, ids: Sequence[str] | None = None) -> Scores:
        """Return the mean negative log-likelihood of each window, in nats per token."""
        rows = self.rows(ids)
        engine, lengths = self._engine.of(model)
        answers = engine.run(model.network, rows)
        values = [-answer.loglikelihoods.sum() / lengths[row] for row, answer in zip(rows, answers, strict=True)]
        values = [value if np.isfinite(value) else float("nan") for value in values]
        return Scores(tuple(self._ids[row] for row in rows), np.array(values))

    def why_no_loss(self) -> str | None:
        """Return None: every window has a loss."""
        return None

    def loss(
        self, model: LanguageModel, ids: Sequence[str], references: Mapping[str, str] = NO_REFERENCES
    ) -> torch.Tensor:
        """Return the score itself, the nats per token of each window, instead of the mean with an expected error."""
        rows = self.loss_rows(ids, references)
        engine, lengths = self._engine.of(model)
        found = engine.with_gradients(model.network, rows)
        return torch.stack([-each.sum() / lengths[row] for row, each in zip(rows, found, strict=True)])

    def _prepare(self, model: LanguageModel) -> tuple[Likelihoods, list[int]]:
        """Return the engine, and the number of tokens of each window."""
        check_continues_text(model.network)
        length = max_length(model.network, model.tokenizer)
        prefix = prefix_token(model.tokenizer)
        tokens = [encode(model.tokenizer, window) for window in self._windows]
        pairs = [list(_chunks(window, prefix, length)) for window in tokens]
        scored = [sum(len(continuation) for _, continuation in chunks) for chunks in pairs]
        if 0 in scored:
            row = scored.index(0)
            raise EvaluatorError(
                f"Example {row} (from 0), {self._windows[row]!r}, has no token to score: the first one can be scored "
                "only after BOS or EOS, and the tokenizer has neither. Remove the example, or use a larger `window`."
            )
        return Likelihoods(pairs, length, self._batch_tokens), scored


def _pieces(text: str, size: int) -> Iterator[str]:
    """Yield pieces of at most `size` characters, cut between words unless a word is longer than that."""
    piece = ""
    for word in re.findall(r"\s*\S+", text):
        if piece and len(piece) + len(word) > size:
            yield piece.strip()
            piece = ""
        piece += word
        while len(piece.strip()) > size:
            yield piece.strip()[:size]
            piece = piece.strip()[size:]
    if piece.strip():
        yield piece.strip()


def _chunks(tokens: Tokens, prefix: int | None, length: int) -> Iterator[tuple[Tokens, Tokens]]:
    """Yield a window as (context, continuation) pairs of at most `length` tokens; each token is scored once.

    The first token is scored after the tokenizer's BOS or EOS; it is context if there is neither, or
    if it is that token itself.
    """
    if prefix is not None and tokens[:1] != (prefix,):
        tokens = (prefix, *tokens)
    for start in range(0, max(len(tokens) - 1, 1), length):
        yield tokens[start : start + 1], tokens[start + 1 : start + 1 + length]
