"""Divergence from an expert on its own texts, without labels.

DAM: Differentiable Adaptive Merging (Gauthier-Caron et al., 2024), https://arxiv.org/abs/2410.08371

tasks:
  math:
    evaluator: kl_to_expert
    file: data/math_prompts.jsonl  # {"prompt": "…"}; other fields are not read
    expert: math                   # a model of the search, or base
    max_new_tokens: 64             # on the expert's own answers; without it, on the texts

With one such task per expert, `objective: mean` is DAM's objective (without its regularization), and
`objective: pareto` shows which expert gives way to which.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evaluators._forward import GatherTest
from evaluators._generation import Generator
from evaluators._networks import check_continues_text
from evaluators._predictions import LEAST, Predictions
from evaluators._presentation import Presentation
from evaluators._rows import Tokens
from evaluators._tokens import PerTokenizer, max_length
from evaluators._unlabeled import read_prompts, read_windows
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

#: Number of example subsets whose predictions are kept (the splits, and a batch).
KEPT = 4


@dataclass(frozen=True)
class _Reading:
    """Texts for one tokenizer: (context, continuation) pairs of each window, or what continues the prompts."""

    length: int
    pairs: Sequence[Sequence[tuple[Tokens, Tokens]]]
    writer: Generator | None
    may_gather: GatherTest


@dataclass(frozen=True)
class _Outcomes:
    """An expert's predictions, reduced to its likeliest tokens and the rest as one outcome.

    tokens: (n_positions, top). likely: their log-probabilities, (n_positions, top). rest: that of all other tokens,
    (n_positions,); empty if there are none.
    """

    tokens: Tensor
    likely: Tensor
    rest: Tensor

    @classmethod
    def empty(cls, n_positions: int, top: int, vocabulary: int) -> "_Outcomes":
        """Return room for predictions over a vocabulary."""
        size = (n_positions, min(top, vocabulary))
        rest = torch.empty(n_positions if top < vocabulary else 0)
        return cls(torch.empty(size, dtype=torch.int32), torch.empty(size), rest)

    @classmethod
    def joined(cls, parts: "Sequence[_Outcomes]") -> "_Outcomes":
        """Return the predictions of several texts as one."""
        return cls(*(torch.cat([getattr(each, name) for each in parts]) for name in ("tokens", "likely", "rest")))

    def put(self, positions: Tensor, logits: Tensor) -> None:
        """Keep the predictions at some positions, from their logits, (n, vocabulary)."""
        likely, place = logits.log_softmax(-1), positions.cpu()
        values, tokens = likely.topk(self.tokens.shape[1], dim=-1)
        self.tokens[place], self.likely[place] = tokens.int().cpu(), values.cpu()
        if len(self.rest):
            self.rest[place] = _others(likely, tokens).cpu()

    def part(self, positions: slice) -> "_Outcomes":
        """Return those of consecutive positions."""
        return _Outcomes(self.tokens[positions], self.likely[positions], self.rest[positions])

    def at(self, positions: Tensor) -> "_Outcomes":
        """Return those at some positions, on their device."""
        place, device = positions.cpu(), positions.device
        rest = self.rest[place] if len(self.rest) else self.rest
        return _Outcomes(self.tokens[place].long().to(device), self.likely[place].to(device), rest.to(device))

    def divergences(self, logits: Tensor) -> Tensor:
        """Return the KL divergences of predictions from the expert's, in nats, (n_positions,), from their logits."""
        mine = logits.log_softmax(-1).clamp(min=LEAST)
        theirs = self.likely.clamp(min=LEAST)
        found = (theirs.exp() * (theirs - mine.gather(1, self.tokens))).sum(-1)
        if not len(self.rest):
            return found
        rest = self.rest.clamp(min=LEAST)
        return found + rest.exp() * (rest - _others(mine, self.tokens).clamp(min=LEAST))


@dataclass(frozen=True)
class _Memory:
    """What is kept of an expert for one example: its answer, if it wrote one, and its predictions."""

    written: Tokens
    outcomes: _Outcomes


class KlToExpert(Evaluator):
    """Mean KL divergence of the model from an expert, in nats per token; lower is better. No labels are read.

    The expert predicts once per worker; its likeliest tokens are kept, and all others count as one outcome, which gives
    a lower bound of the divergence. Whatever model is scored reads the tokens of the merge's tokenizer.

    Args:
        file: JSON lines, or text: in windows, or with `max_new_tokens` one prompt per line.
        expert: Name of the model in the search file, or "base".
        prompt: Field with the text; "prompt", "question" or "text" by default.
        template: Format string over the fields, instead of a field.
        max_new_tokens: Length limit of the expert's greedy answers, in tokens. Only their tokens are compared.
        stop: Strings that end an answer.
        temperature: Divisor of all logits; the divergence is multiplied by its square. DAM has 2.
        top: Number of the expert's likeliest tokens to keep, each in 8 bytes per position.
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
        expert: str,
        prompt: str | None = None,
        template: str | None = None,
        max_new_tokens: int | None = None,
        stop: str | Sequence[str] = (),
        temperature: float = 1.0,
        top: int = 256,
        system: str | None = None,
        apply_chat_template: bool = False,
        window: int = 1000,
        limit: int | None = None,
        batch_tokens: int | None = None,
    ) -> None:
        if not (isfinite(temperature) and temperature > 0):
            raise EvaluatorError(f"temperature is {temperature}; expected a number above 0.")
        if top < 1:
            raise EvaluatorError(f"top is {top}; expected a number of tokens, at least 1.")
        if max_new_tokens is None and (system is not None or apply_chat_template):
            raise EvaluatorError("system and apply_chat_template present prompts: set max_new_tokens, or remove them.")
        self._expert, self._temperature, self._top = expert, temperature, top
        self._max_new_tokens, self._batch_tokens = max_new_tokens, batch_tokens
        self._stop = (stop,) if isinstance(stop, str) else tuple(stop)
        self._presentation = Presentation(system, (), "", apply_chat_template)
        self._texts = (
            read_windows(file, prompt, template, window, limit)
            if max_new_tokens is None
            else read_prompts(file, prompt, template, limit)
        )
        self._ids = content_ids(self._texts)
        self._presented = self._texts
        self._engine = PerTokenizer(self._prepare)
        self._reading: _Reading | None = None
        self._memory: dict[int, _Memory] = {}
        self._kept: dict[tuple[int, ...], tuple[Predictions, _Outcomes]] = {}

    @property
    def example_ids(self) -> tuple[str, ...]:
        """One id per text."""
        return self._ids

    @property
    def experts(self) -> tuple[str, ...]:
        """The model to stay close to."""
        return (self._expert,)

    @torch.no_grad()
    def _learn(self, expert: str, model: LanguageModel, rows: Sequence[int]) -> None:
        reading = self._reading = self._engine.of(model)
        written: Sequence[Tokens] = [()] * len(rows)
        if reading.writer is not None:
            written = [found.tokens for found in reading.writer.run(model.network, rows)]
        predictions = self._predictions(reading, rows, written)
        rooms: list[_Outcomes] = []

        def keep(logits: Tensor, positions: Tensor) -> Tensor:
            if not torch.isfinite(logits.logsumexp(-1)).all():
                raise EvaluatorError(f"{expert!r} computes no finite numbers on its texts: nothing to compare with.")
            if not rooms:
                rooms.append(_Outcomes.empty(predictions.n_positions, self._top, logits.shape[-1]))
            rooms[0].put(positions, logits / self._temperature)
            return logits[:, 0]

        predictions.of(model.network, range(len(rows)), keep)
        for i, row in enumerate(rows):
            self._memory[row] = _Memory(written[i], rooms[0].part(predictions.positions(i)))
        self._kept.clear()

    def preflight(self, model: Any) -> tuple[str, ...]:
        """Tokenize the texts and return warnings. Raises EvaluatorError for texts that the model cannot read."""
        writer = self._engine.of(model).writer
        return () if writer is None else writer.notes

    def preview(self, row: int) -> Preview:
        """Return the text, or the prompt that the expert answers."""
        if self._max_new_tokens is None:
            return Preview("", (self._texts[row],))
        return Preview(self._presented[row])

    def score(self, model: LanguageModel, ids: Sequence[str] | None = None) -> Scores:
        """Return the mean divergence on each text, from one forward pass per batch."""
        rows = self.rows(ids)
        with torch.no_grad():
            values = self._divergences(model, rows).double().cpu().numpy()
        return Scores(tuple(self._ids[row] for row in rows), np.where(np.isfinite(values), values, np.nan))

    def why_no_loss(self) -> str | None:
        """Return None: every text has a loss."""
        return None

    def loss(
        self, model: LanguageModel, ids: Sequence[str], references: Mapping[str, str] = NO_REFERENCES
    ) -> torch.Tensor:
        """Return the score itself."""
        return self._divergences(model, self.loss_rows(ids, references))

    def _divergences(self, model: LanguageModel, rows: Sequence[int]) -> Tensor:
        """Return the mean divergence on each text, (n_examples,)."""
        predictions, theirs = self._learned(rows)
        scale = self._temperature

        def measure(logits: Tensor, positions: Tensor) -> Tensor:
            return theirs.at(positions).divergences(logits / scale)

        found = predictions.of(model.network, range(len(rows)), measure)
        return scale**2 * torch.stack([each.mean() for each in found])

    def _learned(self, rows: Sequence[int]) -> tuple[Predictions, _Outcomes]:
        """Return the positions to compare, and the expert's predictions there."""
        missing = next((row for row in rows if row not in self._memory), None)
        if missing is not None or self._reading is None:
            text = self._ids[missing or 0]
            raise EvaluatorError(f"{self._expert!r} has not read {text!r} yet: `learn` comes first.")
        key = tuple(rows)
        if key not in self._kept:
            if len(self._kept) >= KEPT:
                self._kept.pop(next(iter(self._kept)))
            predictions = self._predictions(self._reading, rows, [self._memory[row].written for row in rows])
            self._kept[key] = predictions, _Outcomes.joined([self._memory[row].outcomes for row in rows])
        return self._kept[key]

    def _predictions(self, reading: _Reading, rows: Sequence[int], written: Sequence[Tokens]) -> Predictions:
        if reading.writer is not None:
            return reading.writer.predictions(rows, written)
        pairs = [reading.pairs[row] for row in rows]
        return Predictions(pairs, reading.length, self._batch_tokens, reading.may_gather)

    def _prepare(self, model: LanguageModel) -> _Reading:
        check_continues_text(model.network)
        length = max_length(model.network, model.tokenizer)
        self._presented = self._presentation.of_all(self._texts, model.tokenizer)
        if self._max_new_tokens is not None:
            writer = Generator(
                model, self._presented, self._max_new_tokens, self._stop, batch_tokens=self._batch_tokens
            )
            return _Reading(length, (), writer, writer.teacher.may_gather)
        pairs = windows_as_pairs(self._texts, model.tokenizer, length)
        longest = max((head + tail for each in pairs for head, tail in each), key=len)
        return _Reading(length, pairs, None, GatherTest(longest))


def _others(likely: Tensor, tokens: Tensor) -> Tensor:
    """Return the log-probability of all tokens but some, (n,). likely: (n, vocabulary). tokens: (n, top)."""
    return likely.scatter(1, tokens, -torch.inf).logsumexp(-1)
