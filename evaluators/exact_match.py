"""Exact match over a JSON lines file: does the model write the answer?

tasks:
  sums:
    evaluator: exact_match
    file: data/sums.jsonl          # {"prompt": "3+4=", "answer": "7"}
    max_new_tokens: 8
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from evaluators._examples import as_texts, check_limit, read_json_lines
from evaluators._extraction import Extraction
from evaluators._generation import Generator
from evaluators._presentation import DELIMITER, Presentation, draw_shots
from evaluators._references import unreachable
from evaluators._seams import trailing_notes
from evaluators._teacher import FileAnswer
from evaluators._tokens import PerTokenizer
from evaluators.base import (
    NO_REFERENCES,
    Evaluator,
    LanguageModel,
    Preview,
    Scores,
    content_ids,
)


class ExactMatch(Evaluator):
    """1 if the greedy continuation equals an answer, else 0; counts continuations cut by the length limit.

    Args:
        file: JSON lines file.
        prompt: Field with the prompt; "prompt" or "question" by default.
        answer: Field with the answer, or with a list of accepted answers.
        template: Format string over the fields, instead of a prompt field.
        max_new_tokens: Length limit of a continuation, in tokens.
        stop: Strings that end a continuation.
        strip: Whether to ignore white space around texts when comparing them.
        ignore_case: Whether to ignore case when comparing texts.
        extract: Regular expression; its last match in the continuation is compared (its first group, if it has one).
            Without a match there is no answer.
        limit: Use at most N examples.
        num_fewshot: Number of solved examples before every prompt, selected by their content and never scored.
        separator: Text between prompt and answer in solved examples.
        system: Message before everything else.
        apply_chat_template: Whether to present prompts as a chat, with solved examples as its turns.
        batch_tokens: Maximum tokens per batch; by default the search file's `batch_tokens`.
    """

    needs_weights = False

    def __init__(
        self,
        *,
        file: str,
        prompt: str | None = None,
        answer: str = "answer",
        template: str | None = None,
        max_new_tokens: int = 32,
        stop: str | Sequence[str] = "\n",
        strip: bool = True,
        ignore_case: bool = False,
        extract: str | None = None,
        limit: int | None = None,
        num_fewshot: int = 0,
        separator: str = " ",
        system: str | None = None,
        apply_chat_template: bool = False,
        batch_tokens: int | None = None,
    ) -> None:
        self._compared = Extraction.of(extract, strip=strip, ignore_case=ignore_case)
        check_limit(limit)
        lines = read_json_lines(file, None if num_fewshot else limit)
        prompts = [line.prompt(prompt, template) for line in lines]
        references = [as_texts(line.field(answer), f"{line.where}, {answer}") for line in lines]
        shown, rest = draw_shots(prompts, num_fewshot)
        shots = tuple((prompts[i], references[i][0]) for i in shown)
        self._presentation = Presentation(system, shots, separator, apply_chat_template)
        self._prompts = [prompts[i] for i in rest[:limit]]
        self._references = [references[i] for i in rest[:limit]]
        self._answers = [{self._compared.normal(text) for text in texts} for texts in self._references]
        self._stop = (stop,) if isinstance(stop, str) else tuple(stop)
        self._file_answers = [self._file_answer(row) for row in range(len(self._prompts))]
        self._max_new_tokens, self._batch_tokens = max_new_tokens, batch_tokens
        self._ids = content_ids(self._prompts)
        #: The prompts as read; with a chat template, known once there is a tokenizer.
        self._presented = self._prompts
        self._engine = PerTokenizer(self._prepare)

    @property
    def example_ids(self) -> tuple[str, ...]:
        """One id per line, of its prompt."""
        return self._ids

    def preflight(self, model: Any) -> tuple[str, ...]:
        """Tokenize the prompts and return warnings about long prompts, white space and impossible answers.

        Raises EvaluatorError if no prompt fits, or if no answer is possible.
        """
        notes = self._engine.of(model).notes
        lost = unreachable(
            self._references,
            model.tokenizer,
            stop=self._stop,
            max_new_tokens=self._max_new_tokens,
            extract=self._compared.pattern,
            normal=self._compared.normal,
        )
        firsts = [texts[0] for texts in self._references]
        return (*notes, *lost, *trailing_notes(model.tokenizer, self._presented, firsts))

    def preview(self, row: int) -> Preview:
        """Return the prompt and the accepted answers."""
        return Preview(self._presented[row], tuple(self._references[row]), generated=True)

    def score(self, model: LanguageModel, ids: Sequence[str] | None = None) -> Scores:
        """Decode greedily. Weights that yield NaN leave every example unscored."""
        rows = self.rows(ids)
        engine = self._engine.of(model)
        written = engine.run(model.network, rows)
        values = [
            float(self._accepts(row, found.text)) if found.finite else float("nan")
            for row, found in zip(rows, written, strict=True)
        ]
        return Scores(
            example_ids=tuple(self._ids[row] for row in rows),
            values=np.array(values),
            truncated=sum(found.truncated for found in written),
            accepted=tuple(
                engine.teacher.verbatim(row, found.tokens) if value == 1 else None
                for row, found, value in zip(rows, written, values, strict=True)
            ),
        )

    def why_no_loss(self) -> str | None:
        """Return None: every example with a reference or an acceptable answer has a loss."""
        return None

    def loss_ids(self, references: Mapping[str, str] = NO_REFERENCES) -> tuple[str, ...]:
        """Return the ids of examples with a reference, or with an answer that is accepted as it is in the file."""
        answers = zip(self._ids, self._file_answers, strict=True)
        return tuple(key for key, answer in answers if answer is not None or key in references)

    def loss(
        self, model: LanguageModel, ids: Sequence[str], references: Mapping[str, str] = NO_REFERENCES
    ) -> torch.Tensor:
        """Return the loss of generating each answer, with the stop string or end token after it."""
        rows = self.loss_rows(ids, references)
        answers = [references.get(self._ids[row], self._file_answers[row]) for row in rows]
        return self._engine.of(model).teacher.losses(model.network, rows, answers)

    def _prepare(self, model: LanguageModel) -> Generator:
        self._presented = self._presentation.of_all(self._prompts, model.tokenizer)
        return Generator(model, self._presented, self._max_new_tokens, self._stop, batch_tokens=self._batch_tokens)

    def _file_answer(self, row: int) -> FileAnswer | None:
        """Return the first answer that is accepted as it is in the file, after a separator if it may have one."""
        lead = "" if self._prompts[row] != self._prompts[row].rstrip() else self._presentation.before_answer
        follows = DELIMITER if self._presentation.shots else ""
        for text in self._references[row]:
            own = lead if text else ""
            for bare in (False, True) if own else (False,):
                answer = FileAnswer(text, own, bare=bare, follows=follows, chat=self._presentation.chat)
                stopped = any(stop and stop in answer.generated for stop in self._stop)
                if not stopped and self._accepts(row, answer.generated):
                    return answer
        return None

    def _accepts(self, row: int, text: str) -> bool:
        return self._compared.answer(text) in self._answers[row]
