"""A task scored by the loss that gradients descend, for black-box search on it."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from evaluators.base import Evaluator, Scores
from evomerge import plugins
from evomerge.plugins import PluginSpec


class Smooth(Evaluator):
    """The loss of another evaluator, per example; smaller is better.

    Args:
        evaluator: Name of the other evaluator.
        options: Its options.
    """

    higher_is_better = False

    def __init__(self, *, evaluator: str, options: Mapping[str, Any]) -> None:
        self._metric: Evaluator = plugins.build("evaluator", PluginSpec(evaluator, options), Evaluator)

    @property
    def example_ids(self) -> tuple[str, ...]:
        """Those of the other evaluator."""
        return self._metric.example_ids

    def preflight(self, model: Any) -> tuple[str, ...]:
        """Tokenize the prompts."""
        return self._metric.preflight(model)

    @torch.no_grad()
    def score(self, model: Any, ids: Sequence[str] | None = None) -> Scores:
        """Compute the losses."""
        chosen = tuple(self.example_ids[row] for row in self.rows(ids))
        return Scores(chosen, self._metric.loss(model, chosen).double().numpy())


class SmoothOfImages(Smooth):
    """The same for an evaluator that reads no text."""

    needs_language_model = False
