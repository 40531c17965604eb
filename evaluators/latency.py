"""Seconds that a model takes to answer a prompt, one prompt at a time.

Merged weights of one shape take the same time per token: what differs is how much they write, and how deep they are.
Scores are those of the machine and of what else it does; do not run other workers beside it on the same device.

tasks:
  seconds:
    evaluator: latency
    file: data/prompts.jsonl       # {"prompt": "Why is the sky blue?"}
    max_new_tokens: 64
"""

import statistics
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from evaluators._examples import read_json_lines
from evaluators._generation import Generator
from evaluators._tokens import PerTokenizer
from evaluators.base import Evaluator, EvaluatorError, LanguageModel, Preview, Scores, content_ids


class Latency(Evaluator):
    """Wall seconds of a greedy continuation until it ends or is cut; the median of `repeats`. Less is better.

    file: JSON lines. prompt: name of the field, "prompt" or "question" by default. template: format string over the
    fields instead. warm_up: continuations of the first prompt before anything is timed.
    """

    higher_is_better = False
    deterministic = False

    def __init__(
        self,
        *,
        file: str,
        prompt: str | None = None,
        template: str | None = None,
        max_new_tokens: int = 64,
        repeats: int = 3,
        warm_up: int = 1,
        limit: int | None = None,
    ) -> None:
        if repeats < 1 or warm_up < 0:
            raise EvaluatorError(f"repeats is {repeats}, warm_up {warm_up}; expected at least 1 and 0.")
        self._prompts = [line.prompt(prompt, template) for line in read_json_lines(file, limit)]
        self._max_new_tokens, self._repeats, self._warm_up = max_new_tokens, repeats, warm_up
        self._ids = content_ids(self._prompts)
        self._engine = PerTokenizer(self._prepare)

    @property
    def example_ids(self) -> tuple[str, ...]:
        """One id per line, of its prompt."""
        return self._ids

    def rehearse(self, model: Any) -> tuple[str, ...]:
        """Tokenise the prompts; notes of those that are too long. Raises EvaluatorError without room for any."""
        return self._engine.of(model).notes

    def preview(self, row: int) -> Preview:
        """The prompt."""
        return Preview(self._prompts[row], generated=True)

    def score(self, model: LanguageModel, ids: Sequence[str] | None = None) -> Scores:
        """Time every prompt. Weights that yield no numbers leave every example unscored."""
        rows = self.rows(ids)
        engine = self._engine.of(model)
        for _ in range(self._warm_up):
            engine.run(model.network, rows[:1])
        values = [statistics.median(_seconds(engine, model.network, row) for _ in range(self._repeats)) for row in rows]
        return Scores(tuple(self._ids[row] for row in rows), np.array(values))

    def _prepare(self, model: LanguageModel) -> Generator:
        return Generator(model, self._prompts, self._max_new_tokens, ())


def _seconds(engine: Generator, network: Any, row: int) -> float:
    """NaN where the weights yield no numbers."""
    _wait(network.device)
    begin = time.perf_counter()
    (written,) = engine.run(network, [row])
    _wait(network.device)
    return time.perf_counter() - begin if written.finite else float("nan")


def _wait(device: torch.device) -> None:
    """Until an accelerator has done what it was given: calls return before that."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
