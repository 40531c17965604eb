"""Classification of texts or pairs of texts by the model's classification head.

tasks:
  reviews:
    evaluator: sequence_classification
    file: data/reviews.jsonl       # {"text": "…", "label": "positive"}
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

from evaluators._encoded import collated, encoded, pad_token
from evaluators._examples import read_json_lines
from evaluators._forward import numbers
from evaluators._heads import (
    ExpertHead,
    Label,
    LabelScore,
    check_label_score,
    check_names,
    losses_of,
    read,
    scores_of,
)
from evaluators._tokens import PerTokenizer, batch_limit, batches
from evaluators.base import NO_REFERENCES, Evaluator, EvaluatorError, LanguageModel, Preview, Scores, content_ids

CLASSES = frozenset(MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES.values())
#: Fields that hold a text, in the order in which they are looked for.
TEXT_FIELDS = ("text", "sentence")


@dataclass(frozen=True)
class _Encoded:
    """Texts for one tokenizer. inputs: arguments of the network of each example."""

    inputs: Sequence[Mapping[str, Sequence[int]]]
    notes: tuple[str, ...]


class SequenceClassification(Evaluator):
    """1 if the right label is the likeliest one, else 0; log-probabilities of all labels in `Scores.choices`.

    The network is the ...ForSequenceClassification that config.json names. For a search, it can be a smooth `score`;
    `Scores.metric` then has the accuracy.

    Args:
        file: JSON lines file.
        text: Field with the text; "text" or "sentence" by default.
        pair: Field with a second text, such as the hypothesis after a premise.
        label: Field with the label: its number among the head's outputs (from 0), or its name.
        labels: Names of the head's outputs in their order; by default `id2label` of the base's config.json.
        head: Name of the model in the search file, or "base", whose classification head replaces that of the merge.
        score: What the search follows: "accuracy"; "probability" of the right label, or "logprob", its logarithm in
            nats. Constraints, selection and report use the accuracy.
        limit: Use at most N examples.
        batch_tokens: Maximum tokens per batch; by default the search file's `batch_tokens`.
    """

    def __init__(
        self,
        *,
        file: str,
        text: str | None = None,
        pair: str | None = None,
        label: str = "label",
        labels: Sequence[str] | None = None,
        head: str | None = None,
        score: LabelScore = "accuracy",
        limit: int | None = None,
        batch_tokens: int | None = None,
    ) -> None:
        self.smooth_score = check_label_score(score)
        names, self._batch_tokens = check_names(labels), batch_tokens
        lines = read_json_lines(file, limit)
        fields = [text or next((name for name in TEXT_FIELDS if name in line.fields), TEXT_FIELDS[0]) for line in lines]
        self._texts = [
            tuple(str(line.field(name)) for name in (field, pair) if name is not None)
            for line, field in zip(lines, fields, strict=True)
        ]
        found = [Label(line.where, line.field(label)) for line in lines]
        named = next((each for each in found if isinstance(each.value, str)), None)
        if head is not None and named is not None and labels is None:
            raise EvaluatorError(
                f"{named.where}: the label {named.value!r} is a name, and the base's config.json names the outputs of "
                f"another head than that of {head!r}: set `labels` to the names of its outputs in their order."
            )
        self._ids = content_ids(["\n".join(each) for each in self._texts])
        self._head = ExpertHead(head, found, names, CLASSES, "sequence")
        self._engine = PerTokenizer(self._prepare)

    @property
    def example_ids(self) -> tuple[str, ...]:
        """One id per line, of its texts."""
        return self._ids

    @property
    def experts(self) -> tuple[str, ...]:
        """The model whose head is used, if it is not the merge's."""
        return self._head.experts

    def check_expert(self, expert: str, network: Any) -> None:  # noqa: ARG002 - there is one
        """Check the head of the expert and that it has the labels."""
        self._head.check(network)

    def _learn(self, expert: str, model: LanguageModel, rows: Sequence[int]) -> None:  # noqa: ARG002 - of all examples
        self._head.learn(model.network)

    def preflight(self, model: Any) -> tuple[str, ...]:
        """Tokenize the texts and return warnings about truncated ones.

        Raises EvaluatorError for a network without a head, and for labels that it does not have.
        """
        self._head.check_merge(model.network)
        return self._engine.of(model).notes

    def preview(self, row: int) -> Preview:
        """Return the texts of an example."""
        return Preview("\n".join(self._texts[row]))

    @torch.no_grad()
    def score(self, model: LanguageModel, ids: Sequence[str] | None = None) -> Scores:
        """Run one forward pass per batch of examples."""
        rows = self.rows(ids)
        right = self._head.right(model.network)
        found = numbers(self._likelihoods(model, rows))
        return scores_of([self._ids[row] for row in rows], found, [right[row] for row in rows], self.smooth_score)

    def why_no_loss(self) -> str | None:
        """Return None: every example has a loss."""
        return None

    def loss(self, model: LanguageModel, ids: Sequence[str], references: Mapping[str, str] = NO_REFERENCES) -> Tensor:
        """Return the loss of the right label among all of them."""
        rows = self.loss_rows(ids, references)
        right = self._head.right(model.network)
        return losses_of(self._likelihoods(model, rows), [right[row] for row in rows])

    def _likelihoods(self, model: LanguageModel, rows: Sequence[int]) -> Tensor:
        """Return the log-probabilities of the labels of some examples, (n_examples, n_labels)."""
        network, inputs = model.network, self._engine.of(model).inputs
        pad = pad_token(network.config)
        sizes = [len(inputs[row]["input_ids"]) for row in rows]
        limit = 1 if pad is None else batch_limit(self._batch_tokens, network)
        groups = batches(sizes, limit)
        parts = [
            read(network, self._head.parameters, collated([inputs[rows[i]] for i in group], pad or 0, network))
            for group in groups
        ]
        order = torch.tensor([i for group in groups for i in group], device=parts[0].device)
        return torch.cat(parts)[order.argsort()]

    def _prepare(self, model: LanguageModel) -> _Encoded:
        found = encoded(model.network, model.tokenizer, self._texts, "examples")
        notes = list(found.notes)
        if pad_token(model.network.config) is None:
            notes.append("config.json has no pad_token_id, so texts are read one at a time, which is slow; set it")
        return _Encoded(found.inputs, tuple(notes))
