"""Exact match over a JSON lines file: does the model write the answer?

tasks:
  sums:
    evaluator: exact_match
    file: data/sums.jsonl          # {"prompt": "3+4=", "answer": "7"}
    max_new_tokens: 8
"""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from evaluators._examples import as_texts, check_limit, read_json_lines
from evaluators._generation import Generator
from evaluators._presentation import Presentation, draw_shots
from evaluators._references import unreachable
from evaluators._seams import trailing_notes
from evaluators._tokens import PerTokenizer
from evaluators.base import Evaluator, EvaluatorError, LanguageModel, Preview, Scores, content_ids


class ExactMatch(Evaluator):
    """1 where the greedy continuation equals an answer, else 0; counts continuations cut by the length.

    file: JSON lines. prompt, answer: names of the fields (an answer may be a list of accepted ones; the
    prompt's default is "prompt" or "question"). template: format string over the fields, instead of a
    prompt field. stop: strings that end a continuation. strip, ignore_case: how texts are compared.
    extract: regular expression whose first group (or whole match) in the continuation is compared, the
    last match counting; no match is no answer. num_fewshot: solved examples shown before every prompt, drawn by their
    content and never scored; separator: between prompt and answer in them. system: a message before everything.
    apply_chat_template: present prompts as a chat, with solved examples as its turns.
    """

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
        self._strip, self._ignore_case = strip, ignore_case
        self._pattern = _compile(extract)
        check_limit(limit)
        lines = read_json_lines(file, None if num_fewshot else limit)
        prompts = [line.prompt(prompt, template) for line in lines]
        references = [as_texts(line.field(answer), f"{line.where}, {answer}") for line in lines]
        shown, rest = draw_shots(prompts, num_fewshot)
        shots = tuple((prompts[i], references[i][0]) for i in shown)
        self._presentation = Presentation(system, shots, separator, apply_chat_template)
        self._prompts = [prompts[i] for i in rest[:limit]]
        self._references = [references[i] for i in rest[:limit]]
        self._answers = [{self._normal(text) for text in texts} for texts in self._references]
        self._max_new_tokens = max_new_tokens
        self._stop = (stop,) if isinstance(stop, str) else tuple(stop)
        self._batch_tokens = batch_tokens
        self._ids = content_ids(self._prompts)
        #: As they are read; of a chat once there is a tokenizer.
        self._presented = self._prompts
        self._engine = PerTokenizer(self._prepare)

    @property
    def example_ids(self) -> tuple[str, ...]:
        """One id per line, of its prompt."""
        return self._ids

    def rehearse(self, model: Any) -> tuple[str, ...]:
        """Tokenise the prompts and return notes on long prompts, white space and answers that no model can give.

        Raises EvaluatorError when no prompt fits, and when no answer can be given.
        """
        notes = self._engine.of(model).notes
        lost = unreachable(
            self._references,
            model.tokenizer,
            stop=self._stop,
            max_new_tokens=self._max_new_tokens,
            extract=self._pattern,
            normal=self._normal,
        )
        firsts = [texts[0] for texts in self._references]
        return (*notes, *lost, *trailing_notes(model.tokenizer, self._presented, firsts))

    def preview(self, row: int) -> Preview:
        """The prompt and the accepted answers."""
        return Preview(self._presented[row], tuple(self._references[row]), generated=True)

    def score(self, model: LanguageModel, ids: Sequence[str] | None = None) -> Scores:
        """Greedy decoding. Weights that yield no numbers leave every example unscored."""
        rows = self.rows(ids)
        written = self._engine.of(model).run(model.network, rows)
        values = [
            float(self._answer(found.text) in self._answers[row]) if found.finite else float("nan")
            for row, found in zip(rows, written, strict=True)
        ]
        return Scores(
            example_ids=tuple(self._ids[row] for row in rows),
            values=np.array(values),
            truncated=sum(found.truncated for found in written),
        )

    def _prepare(self, model: LanguageModel) -> Generator:
        self._presented = self._presentation.of_all(self._prompts, model.tokenizer)
        return Generator(model, self._presented, self._max_new_tokens, self._stop, batch_tokens=self._batch_tokens)

    def _answer(self, text: str) -> str | None:
        if self._pattern is None:
            return self._normal(text)
        matches = list(self._pattern.finditer(text))
        if not matches:
            return None
        return self._normal(matches[-1].group(1 if self._pattern.groups else 0) or "")

    def _normal(self, text: str) -> str:
        text = text.strip() if self._strip else text
        return text.casefold() if self._ignore_case else text


def _compile(pattern: str | None) -> re.Pattern[str] | None:
    if pattern is None:
        return None
    try:
        return re.compile(pattern)
    except re.error as error:
        raise EvaluatorError(f"extract is {pattern!r}, which is no regular expression: {error}.") from error
