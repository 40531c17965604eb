"""Agreement with an expert's answers, without labels. After AdaMMS (Du et al., 2025), https://arxiv.org/abs/2503.23733

tasks:
  sums:
    evaluator: agreement
    file: data/sums.jsonl          # {"prompt": "3+4="}; other fields are not read
    expert: sums                   # a model of the search, or base
    max_new_tokens: 8

AdaMMS takes, on a grid of one coefficient, the merge whose answers differ least from those of its two neighbors on the
grid. In a space of many coefficients a candidate has no neighbors, and the score of a trial must not depend on the
others, so the fixed point of comparison is one of the models: its answers, written once per worker, stand in for the
labels. On the expert's own prompts, they are about as good as the expert is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from evaluators._endings import Generation
from evaluators._extraction import Extraction
from evaluators._generation import Generator
from evaluators._presentation import Presentation
from evaluators._seams import trailing_notes
from evaluators._tokens import PerTokenizer
from evaluators._unlabeled import read_prompts
from evaluators.base import (
    NO_REFERENCES,
    Evaluator,
    EvaluatorError,
    LanguageModel,
    Preview,
    Scores,
    content_ids,
)


@dataclass(frozen=True)
class _Answer:
    """An expert's answer: the part that is compared, and the whole as a target of `loss`; None without one."""

    compared: str | None
    verbatim: str | None


class Agreement(Evaluator):
    """1 if the model's greedy answer equals the expert's, else 0. No labels are read.

    Args:
        file: JSON lines, or text with one prompt per line.
        expert: Name of the model in the search file whose answers are taken for right, or "base".
        prompt: Field with the prompt; "prompt", "question" or "text" by default.
        template: Format string over the fields, instead of a prompt field.
        max_new_tokens: Length limit of an answer, in tokens.
        stop: Strings that end an answer.
        strip: Whether to ignore white space around answers when comparing them.
        ignore_case: Whether to ignore case when comparing answers.
        extract: Regular expression; its last match in an answer is compared (its first group, if it has one). Answers
            of the expert without a match have no equal.
        limit: Use at most N examples.
        system: Message before a prompt.
        apply_chat_template: Whether to present prompts as a chat.
        batch_tokens: Maximum tokens per batch; by default the search file's `batch_tokens`.
    """

    needs_weights = False

    def __init__(
        self,
        *,
        file: str,
        expert: str,
        prompt: str | None = None,
        template: str | None = None,
        max_new_tokens: int = 32,
        stop: str | Sequence[str] = "\n",
        strip: bool = True,
        ignore_case: bool = False,
        extract: str | None = None,
        limit: int | None = None,
        system: str | None = None,
        apply_chat_template: bool = False,
        batch_tokens: int | None = None,
    ) -> None:
        self._expert = expert
        self._compared = Extraction.of(extract, strip=strip, ignore_case=ignore_case)
        self._prompts = read_prompts(file, prompt, template, limit)
        self._presentation = Presentation(system, (), "", apply_chat_template)
        self._stop = (stop,) if isinstance(stop, str) else tuple(stop)
        self._max_new_tokens, self._batch_tokens = max_new_tokens, batch_tokens
        self._ids = content_ids(self._prompts)
        self._answers: dict[int, _Answer] = {}
        #: The prompts as read; with a chat template, known once there is a tokenizer.
        self._presented = self._prompts
        self._engine = PerTokenizer(self._prepare)

    @property
    def example_ids(self) -> tuple[str, ...]:
        """One id per prompt."""
        return self._ids

    @property
    def experts(self) -> tuple[str, ...]:
        """The model whose answers are taken for right."""
        return (self._expert,)

    def _learn(self, expert: str, model: LanguageModel, rows: Sequence[int]) -> None:  # noqa: ARG002 - there is one
        engine = self._engine.of(model)
        for row, found in zip(rows, engine.run(model.network, rows), strict=True):
            if not found.finite:
                raise EvaluatorError(f"{self._expert!r} computes NaN for {self._prompts[row][-40:]!r}.")
            answer = self._compared.answer(found.text)
            self._answers[row] = _Answer(answer, None if answer is None else _verbatim(engine, row, found))

    def preflight(self, model: Any) -> tuple[str, ...]:
        """Tokenize the prompts and return warnings about length and white space. Raises EvaluatorError if none fits."""
        notes = self._engine.of(model).notes
        return (*notes, *trailing_notes(model.tokenizer, self._presented, ["a"] * len(self._ids)))

    def preview(self, row: int) -> Preview:
        """Return the prompt."""
        return Preview(self._presented[row], generated=True)

    def score(self, model: LanguageModel, ids: Sequence[str] | None = None) -> Scores:
        """Decode greedily. Weights that yield NaN leave every example unscored."""
        rows = self.rows(ids)
        answers = self._learned(rows)
        engine = self._engine.of(model)
        written = engine.run(model.network, rows)
        values = [
            float(answer.compared is not None and self._compared.answer(found.text) == answer.compared)
            if found.finite
            else float("nan")
            for answer, found in zip(answers, written, strict=True)
        ]
        return Scores(
            example_ids=tuple(self._ids[row] for row in rows),
            values=np.array(values),
            truncated=sum(found.truncated for found in written),
            accepted=tuple(
                _verbatim(engine, row, found) if value == 1 else None
                for row, found, value in zip(rows, written, values, strict=True)
            ),
        )

    def why_no_loss(self) -> str | None:
        """Return None: every example that the expert answers has a loss."""
        return None

    def loss_ids(self, references: Mapping[str, str] = NO_REFERENCES) -> tuple[str, ...]:
        """Return the ids of examples with a reference, or with an answer of the expert."""
        known = {row for row, answer in self._answers.items() if answer.verbatim is not None}
        return tuple(key for row, key in enumerate(self._ids) if row in known or key in references)

    def loss(
        self, model: LanguageModel, ids: Sequence[str], references: Mapping[str, str] = NO_REFERENCES
    ) -> torch.Tensor:
        """Return the loss of generating each answer of the expert, with what ends it."""
        rows = self.loss_rows(ids, references)
        own = {row: answer.verbatim for row, answer in self._answers.items()}
        texts = [references.get(self._ids[row], own.get(row)) for row in rows]
        return self._engine.of(model).teacher.losses(model.network, rows, texts)

    def _learned(self, rows: Sequence[int]) -> list[_Answer]:
        missing = next((row for row in rows if row not in self._answers), None)
        if missing is not None:
            raise EvaluatorError(f"{self._expert!r} has not answered {self._ids[missing]!r}: `learn` comes first.")
        return [self._answers[row] for row in rows]

    def _prepare(self, model: LanguageModel) -> Generator:
        self._presented = self._presentation.of_all(self._prompts, model.tokenizer)
        return Generator(model, self._presented, self._max_new_tokens, self._stop, batch_tokens=self._batch_tokens)


def _verbatim(engine: Generator, row: int, found: Generation) -> str | None:
    return engine.teacher.verbatim(row, found.tokens)
