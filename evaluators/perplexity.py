"""Perplexity of a text: mean negative log-likelihood per token, window by window.

tasks:
  prose:
    evaluator: perplexity
    file: data/prose.txt           # or JSON lines: {"text": "…"}
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from evaluators._examples import check_limit, read_json_lines, read_text
from evaluators._likelihood import Likelihoods
from evaluators._networks import check_continues_text
from evaluators._tokens import PerTokenizer, max_length
from evaluators._unlabeled import is_json_lines
from evaluators._windows import check_window, pieces, windows_as_pairs
from evaluators.base import (
    NO_REFERENCES,
    Evaluator,
    EvaluatorError,
    LanguageModel,
    Preview,
    Scores,
    content_ids,
)


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
        check_window(window)
        check_limit(limit)
        texts = [str(line.field(field)) for line in read_json_lines(file)] if is_json_lines(file) else [read_text(file)]
        self._windows = [piece for text in texts for piece in pieces(text, window)][:limit]
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
        pairs = windows_as_pairs(self._windows, model.tokenizer, length)
        scored = [sum(len(continuation) for _, continuation in chunks) for chunks in pairs]
        return Likelihoods(pairs, length, self._batch_tokens), scored
