"""Length of a model's answers: tokens per prompt until it stops.

tasks:
  length:
    evaluator: generated_tokens
    file: data/prompts.jsonl       # {"prompt": "Why is the sky blue?"}
    max_new_tokens: 256
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from evaluators._examples import read_json_lines
from evaluators._generation import Generator
from evaluators._seams import trailing_notes
from evaluators._tokens import PerTokenizer
from evaluators.base import Evaluator, LanguageModel, Preview, Scores, content_ids


class GeneratedTokens(Evaluator):
    """Number of tokens of the greedy continuation, without its end token; fewer is better.

    Args:
        file: JSON lines file.
        prompt: Field with the prompt; "prompt" or "question" by default.
        template: Format string over the fields, instead of a prompt field.
        max_new_tokens: Length at which a continuation is cut, and its count in that case.
        limit: Use at most N examples.
        batch_tokens: Maximum tokens per batch; by default the search file's `batch_tokens`.
    """

    higher_is_better = False
    needs_weights = False

    def __init__(
        self,
        *,
        file: str,
        prompt: str | None = None,
        template: str | None = None,
        max_new_tokens: int = 256,
        limit: int | None = None,
        batch_tokens: int | None = None,
    ) -> None:
        self._prompts = [line.prompt(prompt, template) for line in read_json_lines(file, limit)]
        self._max_new_tokens = max_new_tokens
        self._batch_tokens = batch_tokens
        self._ids = content_ids(self._prompts)
        self._engine = PerTokenizer(self._prepare)

    @property
    def example_ids(self) -> tuple[str, ...]:
        """One id per line, of its prompt."""
        return self._ids

    def preflight(self, model: Any) -> tuple[str, ...]:
        """Tokenize the prompts and return warnings about length and white space. Raises EvaluatorError if none fits."""
        return (*self._engine.of(model).notes, *trailing_notes(model.tokenizer, self._prompts, ["a"] * len(self._ids)))

    def preview(self, row: int) -> Preview:
        """Return the prompt."""
        return Preview(self._prompts[row], generated=True)

    def score(self, model: LanguageModel, ids: Sequence[str] | None = None) -> Scores:
        """Decode greedily. Weights that yield NaN leave every example unscored."""
        rows = self.rows(ids)
        written = self._engine.of(model).run(model.network, rows)
        return Scores(
            example_ids=tuple(self._ids[row] for row in rows),
            values=np.array([found.n_tokens if found.finite else float("nan") for found in written]),
            truncated=sum(found.truncated for found in written),
        )

    def _prepare(self, model: LanguageModel) -> Generator:
        return Generator(model, self._prompts, self._max_new_tokens, (), batch_tokens=self._batch_tokens)
