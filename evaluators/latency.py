"""Seconds that a model takes to answer a prompt, one prompt at a time.

Merged models of one architecture take the same time per token; they differ in the length of their answers and in
depth. Scores depend on the machine and its load; do not run other workers on the same device.
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
    """Wall-clock seconds of a greedy continuation until it ends or is cut; the median of `repeats`. Less is better.

    Args:
        file: JSON lines file.
        prompt: Field with the prompt; "prompt" or "question" by default.
        template: Format string over the fields, instead of a prompt field.
        max_new_tokens: Length at which a continuation is cut.
        repeats: Timed continuations per prompt, at least 1.
        warm_up: Untimed continuations of the first prompt beforehand.
        limit: Use at most N examples.
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

    def preflight(self, model: Any) -> tuple[str, ...]:
        """Tokenize the prompts and return warnings about long ones. Raises EvaluatorError if none fits."""
        return self._engine.of(model).notes

    def preview(self, row: int) -> Preview:
        """Return the prompt."""
        return Preview(self._prompts[row], generated=True)

    def score(self, model: LanguageModel, ids: Sequence[str] | None = None) -> Scores:
        """Time every prompt. Weights that yield NaN leave every example unscored."""
        rows = self.rows(ids)
        engine = self._engine.of(model)
        for _ in range(self._warm_up):
            engine.run(model.network, rows[:1])
        values = [statistics.median(_seconds(engine, model.network, row) for _ in range(self._repeats)) for row in rows]
        return Scores(tuple(self._ids[row] for row in rows), np.array(values))

    def _prepare(self, model: LanguageModel) -> Generator:
        return Generator(model, self._prompts, self._max_new_tokens, ())


def _seconds(engine: Generator, network: Any, row: int) -> float:
    """Return the seconds of one continuation; NaN if the weights yield NaN."""
    _wait(network.device)
    begin = time.perf_counter()
    (written,) = engine.run(network, [row])
    _wait(network.device)
    return time.perf_counter() - begin if written.finite else float("nan")


def _wait(device: torch.device) -> None:
    """Wait until an accelerator has finished its queue, since calls return earlier."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
