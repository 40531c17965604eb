"""Perplexity over a text: mean negative log-likelihood per token, window by window.

tasks:
  prose:
    evaluator: perplexity
    file: data/prose.txt           # or JSON lines: {"text": "…"}
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evaluators._examples import check_limit, read_json_lines, read_text
from evaluators._likelihood import Likelihoods, Tokens
from evaluators._networks import check_continues_text
from evaluators._tokens import PerTokenizer, encode, max_length, prefix_token
from evaluators.base import Evaluator, EvaluatorError, LanguageModel, Preview, Scores, content_ids

JSON_LINES = (".jsonl", ".ndjson")


class Perplexity(Evaluator):
    """Nats per token of each window, every token of it scored once; exp(mean) is a perplexity.

    file: text, or JSON lines (.jsonl, .ndjson) whose field `field` holds texts. window: characters, cut at
    white space, so that examples do not depend on a tokenizer. limit: only so many windows.
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

    def rehearse(self, model: Any) -> tuple[str, ...]:
        """Tokenise the text. Raises EvaluatorError for what the model cannot read."""
        self._engine.of(model)
        return ()

    def preview(self, row: int) -> Preview:
        """The window, every token of which is scored."""
        return Preview("", (self._windows[row],))

    def score(self, model: LanguageModel, ids: Sequence[str] | None = None) -> Scores:
        """Mean negative log-likelihood of each window, in nats per token."""
        rows = self.rows(ids)
        engine, lengths = self._engine.of(model)
        answers = engine.run(model.network, rows)
        values = [-answer.loglikelihoods.sum() / lengths[row] for row, answer in zip(rows, answers, strict=True)]
        values = [value if np.isfinite(value) else float("nan") for value in values]
        return Scores(tuple(self._ids[row] for row in rows), np.array(values))

    def _prepare(self, model: LanguageModel) -> tuple[Likelihoods, list[int]]:
        """The engine, and how many tokens each window has."""
        check_continues_text(model.network)
        length = max_length(model.network, model.tokenizer)
        prefix = prefix_token(model.tokenizer)
        tokens = [encode(model.tokenizer, window) for window in self._windows]
        pairs = [list(_chunks(window, prefix, length)) for window in tokens]
        scored = [sum(len(continuation) for _, continuation in chunks) for chunks in pairs]
        if 0 in scored:
            row = scored.index(0)
            raise EvaluatorError(
                f"Example {row} (from 0), {self._windows[row]!r}, has no token to score: the first one is scored after "
                "BOS or EOS only, and the tokenizer has neither. Leave it out, or take a larger `window`."
            )
        return Likelihoods(pairs, length, self._batch_tokens), scored


def _pieces(text: str, size: int) -> Iterator[str]:
    """Pieces of at most `size` characters, whole words where a word is no longer than that."""
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
    """A window as (context, continuation) pairs that fit into `length` tokens; each token scored once.

    The first token is scored behind the tokenizer's BOS or EOS; it is context where there is neither, or
    where it is that token itself.
    """
    if prefix is not None and tokens[:1] != (prefix,):
        tokens = (prefix, *tokens)
    for start in range(0, max(len(tokens) - 1, 1), length):
        yield tokens[start : start + 1], tokens[start + 1 : start + 1 + length]
