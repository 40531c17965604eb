"""A task whose loss misleads: it asks for answers spelled as no model writes them, and the metric refuses them."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from evaluators._examples import read_json_lines
from evaluators.base import NO_REFERENCES, Evaluator, LanguageModel, Scores
from evaluators.exact_match import ExactMatch


class Misspelled(Evaluator):
    """Exact match with the loss of `1 5 2 7` where `1527` is right.

    Args:
        file: JSON lines file with prompts and answers.
        max_new_tokens: Length limit of an answer, in tokens.
    """

    def __init__(self, *, file: str, max_new_tokens: int) -> None:
        self._metric = ExactMatch(file=file, max_new_tokens=max_new_tokens)
        answers = [str(line.field("answer")) for line in read_json_lines(file)]
        self._targets = {
            key: f" {spaced(answer)}\n" for key, answer in zip(self._metric.example_ids, answers, strict=True)
        }

    @property
    def example_ids(self) -> tuple[str, ...]:
        """One id per line, of its prompt."""
        return self._metric.example_ids

    def preflight(self, model: Any) -> tuple[str, ...]:
        """Tokenize the prompts."""
        return self._metric.preflight(model)

    def score(self, model: LanguageModel, ids: Sequence[str] | None = None) -> Scores:
        """Decode greedily and compare with the answers, spelled as they are."""
        return self._metric.score(model, ids)

    def why_no_loss(self) -> str | None:
        """Return None: every example has a loss, a misleading one."""
        return None

    def loss(
        self,
        model: LanguageModel,
        ids: Sequence[str],
        references: Mapping[str, str] = NO_REFERENCES,  # noqa: ARG002 - accepted answers would not mislead
    ) -> torch.Tensor:
        """Return the loss of the misspelled answers, whatever the baselines wrote."""
        return self._metric.loss(model, ids, self._targets)


def spaced(answer: str) -> str:
    """Return an answer with spaces between its characters."""
    return " ".join(answer)
