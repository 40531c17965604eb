"""Multiple choice over a JSON lines file: is the right answer the most likely one?

    tasks:
      capitals:
        evaluator: multiple_choice
        file: data/capitals.jsonl      # {"question": "…", "choices": ["…", "…"], "answer": 1}

Scored like `output_type: multiple_choice` of lm-evaluation-harness.
"""

from collections.abc import Mapping, Sequence
from typing import Any, get_args

import numpy as np
import torch

from evaluators._answers import AnswerIs, Labeled, right_choices
from evaluators._choices import Normalize, divisors
from evaluators._examples import as_texts, check_limit, read_json_lines
from evaluators._likelihood import Answers, Likelihoods, Tokens
from evaluators._losses import of_choices
from evaluators._networks import check_continues_text
from evaluators._presentation import Presentation, draw_shots
from evaluators._seams import seam_notes
from evaluators._tokens import PerTokenizer, encode_pair, max_length
from evaluators.base import (
    NO_REFERENCES,
    Evaluator,
    EvaluatorError,
    LanguageModel,
    Preview,
    Scores,
    content_ids,
)


class MultipleChoice(Evaluator):
    """1 if the answer is the most likely choice, else 0; log-likelihoods in `Scores.choices`.

    Args:
        file: JSON lines file.
        prompt: Field with the prompt; "prompt" or "question" by default.
        choices: Field with the list of choices.
        answer: Field with the answer: the index, the letter or the text of a choice.
        answer_is: Meaning of the answer field: "index" (from 0), "index_from_1", "letter" (A for the first choice) or
            "choice" (the choice itself). By default inferred from the whole file; a file whose numbers allow two
            readings is an error.
        template: Format string over the fields, instead of a prompt field.
        separator: Text between prompt and choice.
        normalize: Divisor of a choice's log-likelihood: 1, its number of characters, or its number of bytes.
        limit: Use at most N examples.
        num_fewshot: Number of solved examples before every prompt, selected by their content and never scored.
        system: Message before everything else.
        apply_chat_template: Whether to present prompts as a chat, with solved examples as its turns and no separator.
        batch_tokens: Maximum tokens per batch; by default the search file's `batch_tokens`.
    """

    def __init__(
        self,
        *,
        file: str,
        prompt: str | None = None,
        choices: str = "choices",
        answer: str = "answer",
        answer_is: AnswerIs | None = None,
        template: str | None = None,
        separator: str = " ",
        normalize: Normalize = "none",
        limit: int | None = None,
        num_fewshot: int = 0,
        system: str | None = None,
        apply_chat_template: bool = False,
        batch_tokens: int | None = None,
    ) -> None:
        if normalize not in get_args(Normalize):
            raise EvaluatorError(f"normalize is {normalize!r}; expected one of {', '.join(get_args(Normalize))}.")
        check_limit(limit)
        lines = read_json_lines(file)
        labeled = [
            Labeled(line.where, line.field(answer), as_texts(line.field(choices), f"{line.where}, {choices}"))
            for line in lines
        ]
        gold, self._notes = right_choices(labeled, answer_is)  # for the whole file: `limit` must not change it
        prompts = [line.prompt(prompt, template) for line in lines]
        contents = ["\n".join((p, *example.choices)) for p, example in zip(prompts, labeled, strict=True)]
        shown, rest = draw_shots(contents, num_fewshot)
        shots = tuple((prompts[i], labeled[i].choices[gold[i]]) for i in shown)
        self._presentation = Presentation(system, shots, separator, apply_chat_template)
        self._prompts = [prompts[i] for i in rest[:limit]]
        self._choices = [labeled[i].choices for i in rest[:limit]]
        self._gold = [gold[i] for i in rest[:limit]]
        self._lengths = [divisors(texts, normalize) for texts in self._choices]
        self._batch_tokens = batch_tokens
        self._ids = content_ids([contents[i] for i in rest[:limit]])
        self._separator = self._presentation.before_answer
        #: The prompts as read; with a chat template, known once there is a tokenizer.
        self._presented = self._prompts
        self._engine = PerTokenizer(self._prepare)

    @property
    def example_ids(self) -> tuple[str, ...]:
        """One id per line, of its prompt and choices."""
        return self._ids

    def preflight(self, model: Any) -> tuple[str, ...]:
        """Tokenize the choices and return warnings about answers and white space.

        Raises EvaluatorError for a choice that the model cannot read after its prompt.
        """
        engine, undecided = self._engine.of(model)
        seams = () if self._presentation.chat else seam_notes(self._prompts, self._separator, self._choices)
        return (*self._notes, *seams, *undecided, *engine.notes)

    def preview(self, row: int) -> Preview:
        """Return the prompt, and every choice preceded by the separator."""
        texts = tuple(self._separator + text for text in self._choices[row])
        return Preview(self._presented[row], texts, (self._gold[row],))

    def score(self, model: LanguageModel, ids: Sequence[str] | None = None) -> Scores:
        """Run one forward pass per batch of examples."""
        rows = self.rows(ids)
        engine, _ = self._engine.of(model)
        answers = engine.run(model.network, rows)
        return Scores(
            example_ids=tuple(self._ids[row] for row in rows),
            values=np.array([self._value(row, answer) for row, answer in zip(rows, answers, strict=True)]),
            choices=tuple(answer.loglikelihoods for answer in answers),
        )

    def why_no_loss(self) -> str | None:
        """Return None: every example has a loss."""
        return None

    def loss(
        self, model: LanguageModel, ids: Sequence[str], references: Mapping[str, str] = NO_REFERENCES
    ) -> torch.Tensor:
        """Return the loss of the right choice among all of an example, normalized as in `score`."""
        rows = self.loss_rows(ids, references)
        engine, _ = self._engine.of(model)
        found = engine.with_gradients(model.network, rows)
        return torch.stack(
            [of_choices(each, self._lengths[row], [self._gold[row]]) for row, each in zip(rows, found, strict=True)]
        )

    def _prepare(self, model: LanguageModel) -> tuple[Likelihoods, tuple[str, ...]]:
        """Return the engine, and warnings about choices with identical tokens."""
        check_continues_text(model.network)
        self._presented = self._presentation.of_all(self._prompts, model.tokenizer)
        pairs = [
            [encode_pair(model.tokenizer, prompt, self._separator + text) for text in texts]
            for prompt, texts in zip(self._presented, self._choices, strict=True)
        ]
        engine = Likelihoods(pairs, max_length(model.network, model.tokenizer), self._batch_tokens)
        return engine, self._undecided(pairs)

    def _undecided(self, pairs: Sequence[Sequence[tuple[Tokens, Tokens]]]) -> tuple[str, ...]:
        """Return a warning about examples whose right choice never wins, having the tokens of an earlier one."""
        lost = [row for row, each in enumerate(pairs) if each.index(each[self._gold[row]]) < self._gold[row]]
        if not lost:
            return ()
        seen = f"{len(lost)} of {len(pairs)} examples can only score 0"
        return (f"{seen}: their right choice has the same tokens as an earlier one, as in {self._choices[lost[0]]!r}",)

    def _value(self, row: int, answer: Answers) -> float:
        if not np.isfinite(answer.loglikelihoods).all():
            return float("nan")
        return float(np.argmax(answer.loglikelihoods / self._lengths[row]) == self._gold[row])
