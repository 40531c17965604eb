"""Multiple choice over a JSON lines file: is the right answer the most likely one?

    tasks:
      capitals:
        evaluator: multiple_choice
        file: data/capitals.jsonl      # {"question": "…", "choices": ["…", "…"], "answer": 1}

Scored as lm-evaluation-harness scores `output_type: multiple_choice`.
"""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np

from evaluators._examples import Line, as_texts, read_json_lines
from evaluators._likelihood import Answers, Likelihoods
from evaluators._networks import check_continues_text
from evaluators._tokens import PerTokenizer, encode_pair, max_length
from evaluators.base import Evaluator, EvaluatorError, FloatArray, LanguageModel, Scores, content_ids

Normalize = Literal["none", "length", "bytes"]


class MultipleChoice(Evaluator):
    """1 where the answer is the most likely choice, else 0; log-likelihoods in `Scores.choices`.

    file: JSON lines. prompt, choices, answer: names of the fields; the prompt's default is "prompt" or
    "question"; an answer is an index from 0 or the choice itself. template: format string over the fields,
    instead of a prompt field. separator: between prompt and choice. normalize: divide a choice's
    log-likelihood by nothing, its characters or its bytes. limit: only so many examples.
    """

    def __init__(
        self,
        *,
        file: str,
        prompt: str | None = None,
        choices: str = "choices",
        answer: str = "answer",
        template: str | None = None,
        separator: str = " ",
        normalize: Normalize = "none",
        limit: int | None = None,
        batch_tokens: int | None = None,
    ) -> None:
        if normalize not in get_args(Normalize):
            raise EvaluatorError(f"normalize is {normalize!r}; expected one of {', '.join(get_args(Normalize))}.")
        lines = read_json_lines(file, limit)
        self._prompts = [line.prompt(prompt, template) for line in lines]
        self._choices = [as_texts(line.field(choices), f"{line.where}, {choices}") for line in lines]
        self._gold = [_gold(line, answer, texts) for line, texts in zip(lines, self._choices, strict=True)]
        self._lengths = [_lengths(texts, normalize) for texts in self._choices]
        self._separator = separator
        self._batch_tokens = batch_tokens
        self._ids = content_ids(["\n".join((p, *texts)) for p, texts in zip(self._prompts, self._choices, strict=True)])
        self._engine = PerTokenizer(self._prepare)

    @property
    def example_ids(self) -> tuple[str, ...]:
        """One id per line, of its prompt and choices."""
        return self._ids

    def rehearse(self, model: Any) -> tuple[str, ...]:
        """Tokenise the choices. Raises EvaluatorError for one that the model cannot read behind its prompt."""
        self._engine.of(model)
        return ()

    def score(self, model: LanguageModel, ids: Sequence[str] | None = None) -> Scores:
        """One forward pass per batch of examples."""
        rows = self.rows(ids)
        answers = self._engine.of(model).run(model.network, rows)
        return Scores(
            example_ids=tuple(self._ids[row] for row in rows),
            values=np.array([self._value(row, answer) for row, answer in zip(rows, answers, strict=True)]),
            choices=tuple(answer.loglikelihoods for answer in answers),
        )

    def _prepare(self, model: LanguageModel) -> Likelihoods:
        check_continues_text(model.network)
        pairs = [
            [encode_pair(model.tokenizer, prompt, self._separator + text) for text in texts]
            for prompt, texts in zip(self._prompts, self._choices, strict=True)
        ]
        return Likelihoods(pairs, max_length(model.network, model.tokenizer), self._batch_tokens)

    def _value(self, row: int, answer: Answers) -> float:
        if not np.isfinite(answer.loglikelihoods).all():
            return float("nan")
        return float(np.argmax(answer.loglikelihoods / self._lengths[row]) == self._gold[row])


def _gold(line: Line, field: str, choices: Sequence[str]) -> int:
    answer = line.field(field)
    if isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(choices):
        return answer
    if isinstance(answer, str) and answer in choices:
        return choices.index(answer)
    raise EvaluatorError(
        f"{line.where}: {field} is {answer!r}; expected an index from 0 to {len(choices) - 1} "
        f"or one of {list(choices)!r}."
    )


def _lengths(choices: Sequence[str], normalize: Normalize) -> FloatArray:
    """What to divide the log-likelihoods by: (n_choices,)."""
    if normalize == "none":
        return np.ones(len(choices))
    sizes = [len(text) if normalize == "length" else len(text.encode()) for text in choices]
    if min(sizes) == 0:
        raise EvaluatorError(f"normalize: {normalize} needs choices with text; found {list(choices)!r}.")
    return np.array(sizes, dtype=np.float64)
