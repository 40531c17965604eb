"""Entropy of predictions on texts without labels. AdaMerging (Yang et al., 2024), https://arxiv.org/abs/2310.02575

tasks:
  certain:
    evaluator: entropy
    file: data/prompts.jsonl       # {"prompt": "…"}; other fields are not read
    max_new_tokens: 8              # of the tokens that the model answers with; without it, of all tokens of the text

A merge that is as certain as its experts on their own texts has usually kept what they know. A collapsed model that
predicts the same token everywhere is certain, too: score the perplexity of a text, or labeled examples, beside it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from evaluators._choices import Normalize, divisors
from evaluators._examples import as_texts, read_json_lines
from evaluators._generation import Generator
from evaluators._likelihood import Likelihoods
from evaluators._networks import check_continues_text
from evaluators._predictions import Predictions, entropy
from evaluators._presentation import Presentation
from evaluators._tokens import PerTokenizer, encode_pair, max_length
from evaluators._unlabeled import check_choice, prompt_of, read_prompts, read_windows
from evaluators._windows import windows_as_pairs
from evaluators.base import (
    NO_REFERENCES,
    Evaluator,
    EvaluatorError,
    LanguageModel,
    Preview,
    Scores,
    content_ids,
)

COLLAPSE = (
    "a collapsed model, which always predicts the same, has the least entropy of all: add a perplexity task, or one "
    "with labels, to the objective"
)


@dataclass(frozen=True)
class _Prepared:
    """Entropies of the examples at some positions, differentiable, (n,), from a network; warnings."""

    entropies: Callable[[Any, Sequence[int]], Tensor]
    notes: tuple[str, ...] = ()


class Entropy(Evaluator):
    """Mean Shannon entropy in nats of the predictions on each text; lower is better. No labels are read.

    With `choices`, it is the entropy of the distribution over an example's choices. With `max_new_tokens`, it is the
    mean over the tokens with which the model continues a prompt greedily. Otherwise, it is the mean over all tokens of
    a text. Gradients of the second keep the tokens fixed.

    Args:
        file: JSON lines, or text: in windows, or with `max_new_tokens` one prompt per line.
        prompt: Field with the text; "prompt", "question" or "text" by default.
        template: Format string over the fields, instead of a field.
        choices: Field with a list of choices.
        normalize: Divisor of a choice's log-likelihood: "none", or its "length" in characters or "bytes".
        separator: Text between prompt and choice.
        max_new_tokens: Length limit of a continuation, in tokens.
        stop: Strings that end a continuation.
        system: Message before a prompt.
        apply_chat_template: Whether to present prompts as a chat.
        window: Window size in characters, for whole texts.
        limit: Use at most N examples.
        batch_tokens: Maximum tokens per batch; by default the search file's `batch_tokens`.
    """

    higher_is_better = False

    def __init__(
        self,
        *,
        file: str,
        prompt: str | None = None,
        template: str | None = None,
        choices: str | None = None,
        normalize: Normalize = "none",
        separator: str = " ",
        max_new_tokens: int | None = None,
        stop: str | Sequence[str] = (),
        system: str | None = None,
        apply_chat_template: bool = False,
        window: int = 1000,
        limit: int | None = None,
        batch_tokens: int | None = None,
    ) -> None:
        check_choice("normalize", normalize, get_args(Normalize))
        if choices is not None and max_new_tokens is not None:
            raise EvaluatorError("choices and max_new_tokens are both set; expected one of them, or neither.")
        if choices is None and max_new_tokens is None and (system is not None or apply_chat_template):
            raise EvaluatorError(
                "system and apply_chat_template present prompts: set max_new_tokens or choices, or remove them."
            )
        self._max_new_tokens, self._batch_tokens = max_new_tokens, batch_tokens
        self._stop = (stop,) if isinstance(stop, str) else tuple(stop)
        self._presentation = Presentation(system, (), separator, apply_chat_template)
        self._choices: list[list[str]] | None = None
        if choices is not None:
            lines = read_json_lines(file, limit)
            self._choices = [as_texts(line.field(choices), f"{line.where}, {choices}") for line in lines]
            self._divisors = [divisors(texts, normalize) for texts in self._choices]
            self._texts = [prompt_of(line, prompt, template) for line in lines]
            contents = ["\n".join((text, *own)) for text, own in zip(self._texts, self._choices, strict=True)]
        elif max_new_tokens is not None:
            contents = self._texts = read_prompts(file, prompt, template, limit)
        else:
            contents = self._texts = read_windows(file, prompt, template, window, limit)
        self._ids = content_ids(contents)
        #: The prompts as read; with a chat template, known once there is a tokenizer.
        self._presented = self._texts
        self._engine = PerTokenizer(self._prepare)

    @property
    def example_ids(self) -> tuple[str, ...]:
        """One id per text, of the text and its choices."""
        return self._ids

    def preflight(self, model: Any) -> tuple[str, ...]:
        """Tokenize the texts and return warnings. Raises EvaluatorError for texts that the model cannot read."""
        return (*self._engine.of(model).notes, COLLAPSE)

    def preview(self, row: int) -> Preview:
        """Return the text; the choices after the separator; or the prompt that is continued."""
        if self._choices is not None:
            texts = tuple(self._presentation.before_answer + text for text in self._choices[row])
            return Preview(self._presented[row], texts)
        if self._max_new_tokens is not None:
            return Preview(self._presented[row], generated=True)
        return Preview("", (self._texts[row],))

    def score(self, model: LanguageModel, ids: Sequence[str] | None = None) -> Scores:
        """Return the mean entropy of each text."""
        rows = self.rows(ids)
        with torch.no_grad():
            values = self._engine.of(model).entropies(model.network, rows).double().cpu().numpy()
        return Scores(tuple(self._ids[row] for row in rows), np.where(np.isfinite(values), values, np.nan))

    def why_no_loss(self) -> str | None:
        """Return None: every text has a loss."""
        return None

    def loss(
        self, model: LanguageModel, ids: Sequence[str], references: Mapping[str, str] = NO_REFERENCES
    ) -> torch.Tensor:
        """Return the score itself; of generated tokens, with the tokens that the model generates now."""
        rows = self.loss_rows(ids, references)
        return self._engine.of(model).entropies(model.network, rows)

    def _prepare(self, model: LanguageModel) -> _Prepared:
        check_continues_text(model.network)
        self._presented = self._presentation.of_all(self._texts, model.tokenizer)
        if self._choices is not None:
            return self._of_choices(model, self._choices)
        if self._max_new_tokens is not None:
            return self._of_answers(model, self._max_new_tokens)
        return self._of_texts(model)

    def _of_texts(self, model: LanguageModel) -> _Prepared:
        length = max_length(model.network, model.tokenizer)
        predictions = Predictions(windows_as_pairs(self._texts, model.tokenizer, length), length, self._batch_tokens)
        return _Prepared(lambda network, rows: _means(predictions, network, rows))

    def _of_answers(self, model: LanguageModel, max_new_tokens: int) -> _Prepared:
        writer = Generator(model, self._presented, max_new_tokens, self._stop, batch_tokens=self._batch_tokens)

        def entropies(network: Any, rows: Sequence[int]) -> Tensor:
            written = [found.tokens for found in writer.run(network, rows)]
            return _means(writer.predictions(rows, written), network, range(len(rows)))

        return _Prepared(entropies, writer.notes)

    def _of_choices(self, model: LanguageModel, choices: Sequence[Sequence[str]]) -> _Prepared:
        separator = self._presentation.before_answer
        pairs = [
            [encode_pair(model.tokenizer, prompt, separator + text) for text in texts]
            for prompt, texts in zip(self._presented, choices, strict=True)
        ]
        engine = Likelihoods(pairs, max_length(model.network, model.tokenizer), self._batch_tokens)

        def entropies(network: Any, rows: Sequence[int]) -> Tensor:
            found = engine.with_gradients(network, rows)
            scaled = [each / each.new_tensor(self._divisors[row]) for row, each in zip(rows, found, strict=True)]
            return torch.stack([entropy(each) for each in scaled])

        return _Prepared(entropies, engine.notes)


def _means(predictions: Predictions, network: Any, which: Sequence[int]) -> Tensor:
    """Return the mean entropy of each example, (n_examples,)."""
    return torch.stack([each.mean() for each in predictions.of(network, which, lambda logits, _: entropy(logits))])
