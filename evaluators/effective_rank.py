"""Effective rank of the final hidden states, without labels. RankMe (Garrido et al., 2023)

https://arxiv.org/abs/2210.02885

tasks:
  rank:
    evaluator: effective_rank
    file: data/prompts.jsonl       # {"prompt": "…"}; other fields are not read

With singular values s of the hidden states (n_examples, width) and p = s / sum(s) + epsilon, it is
exp(-sum(p log p)): from 1, if all texts have the same direction, to the smaller of both numbers.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evaluators._networks import check_continues_text
from evaluators._predictions import Predictions
from evaluators._presentation import Presentation
from evaluators._tokens import PerTokenizer, encode_prompt, max_length
from evaluators._unlabeled import read_prompts
from evaluators.base import Evaluator, EvaluatorError, LanguageModel, Preview, Scores, content_ids

#: The paper's, for float32.
EPSILON = 1e-7


class EffectiveRank(Evaluator):
    """Number of directions that the last tokens of the texts use in the final hidden states; larger is better.

    One value for the whole model, of all texts together, so it has no sampling error, and is the same on every split.

    Args:
        file: JSON lines, or text with one prompt per line.
        prompt: Field with the text; "prompt", "question" or "text" by default.
        template: Format string over the fields, instead of a field.
        limit: Use at most N texts. A rank needs more texts than it is large.
        system: Message before a text.
        apply_chat_template: Whether to present texts as a chat.
        batch_tokens: Maximum tokens per batch; by default the search file's `batch_tokens`.
    """

    whole_model = True

    def __init__(
        self,
        *,
        file: str,
        prompt: str | None = None,
        template: str | None = None,
        limit: int | None = None,
        system: str | None = None,
        apply_chat_template: bool = False,
        batch_tokens: int | None = None,
    ) -> None:
        self._prompts = read_prompts(file, prompt, template, limit)
        self._presentation = Presentation(system, (), "", apply_chat_template)
        self._batch_tokens = batch_tokens
        self._ids = content_ids(["\n".join(("effective rank", *self._prompts))])
        self._presented = self._prompts
        self._engine = PerTokenizer(self._prepare)

    @property
    def example_ids(self) -> tuple[str, ...]:
        """One id, of all texts."""
        return self._ids

    def preflight(self, model: Any) -> tuple[str, ...]:
        """Tokenize the texts, and warn about too few of them. Raises EvaluatorError for texts without tokens."""
        self._engine.of(model)
        config = getattr(model.network.config, "text_config", None) or model.network.config
        width = getattr(config, "hidden_size", None)
        if width is None or len(self._prompts) >= width:
            return ()
        note = (
            f"the hidden states have {width} dimensions, and a rank of {len(self._prompts)} texts is at most "
            f"{len(self._prompts)}: use at least {width} texts"
        )
        return (note,)

    def preview(self, row: int) -> Preview:
        """Return the first text; all of them make one value."""
        return Preview(self._presented[row])

    def score(self, model: LanguageModel, ids: Sequence[str] | None = None) -> Scores:
        """Return the effective rank; weights that yield NaN leave it unscored."""
        self.rows(ids)
        with torch.no_grad():
            states = self._engine.of(model).states(model.network, range(len(self._prompts)))
        return Scores(self._ids, np.array([_effective_rank(states)]))

    def why_no_loss(self) -> str | None:
        """Return that a rank has no loss of one example."""
        return (
            "effective_rank has no differentiable loss: it is one value of all texts together. Use an optimizer that "
            "needs no gradients for this task, or `entropy` or `kl_to_expert`, which need no labels either."
        )

    def _prepare(self, model: LanguageModel) -> Predictions:
        check_continues_text(model.network)
        self._presented = self._presentation.of_all(self._prompts, model.tokenizer)
        tokens = [encode_prompt(model.tokenizer, text) for text in self._presented]
        if () in tokens:
            raise EvaluatorError(f"The text {self._presented[tokens.index(())]!r} has no tokens; expected some text.")
        # The state at the last token is where the model predicts a next one; which one does not matter.
        pairs = [[(each, each[-1:])] for each in tokens]
        return Predictions(pairs, max_length(model.network, model.tokenizer), self._batch_tokens)


def _effective_rank(states: Tensor) -> float:
    """Return the effective rank of a matrix (n_examples, width); NaN if it is 0, or not finite."""
    if not torch.isfinite(states).all() or not states.any():
        return float("nan")
    values = torch.linalg.svdvals(states.double())
    p = values / values.sum() + EPSILON
    return float(torch.exp(-(p * p.log()).sum()))
