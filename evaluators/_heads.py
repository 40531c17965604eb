"""Classification heads: the labels that one predicts, and forward passes with the head of another model.

Shapes: n_rows examples of one batch, n_labels labels of the head.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call

from evaluators._choices import smooth_value
from evaluators._losses import mixed
from evaluators.base import EvaluatorError, FloatArray, Scores

#: What a search follows; the others than the accuracy are smooth.
LabelScore = Literal["accuracy", "probability", "logprob"]


@dataclass(frozen=True)
class Label:
    """The label of an example as in the file, and its location for error messages."""

    where: str
    value: Any


def check_label_score(score: str) -> str | None:
    """Return the name of a smooth score, None for the accuracy. Raises EvaluatorError for another name."""
    if score not in get_args(LabelScore):
        raise EvaluatorError(f"score is {score!r}; expected one of {', '.join(get_args(LabelScore))}.")
    return None if score == "accuracy" else score


def check_names(labels: Sequence[str] | None) -> tuple[str, ...] | None:
    """Return the option `labels` as a tuple. Raises EvaluatorError unless it is None or distinct names, at least 2."""
    if labels is None:
        return None
    names = () if isinstance(labels, str) else tuple(labels)
    if len(names) < 2 or len(set(names)) < len(names) or not all(isinstance(name, str) for name in names):
        raise EvaluatorError(
            f"labels is {labels!r}; expected the names of the head's outputs in their order: at least two, distinct."
        )
    return names


def check_head(network: Any, classes: Collection[str], what: str) -> None:
    """Raise EvaluatorError unless a network has a head of the wanted kind, with at least two labels.

    network: a transformers model, with or without weights; other objects are judged by their configuration alone.
    classes: names of transformers' classes that have one. what: "sequence", as in their names.
    """
    name = type(network).__name__
    if hasattr(network, "can_generate") and name not in classes:
        raise EvaluatorError(
            f"{name} has no head that classifies: config.json must name an architecture for {what} classification, "
            f"such as {next(iter(sorted(classes)))}, and the weights must contain its head."
        )
    config = network.config
    if config.num_labels < 2 or getattr(config, "problem_type", None) in ("regression", "multi_label_classification"):
        raise EvaluatorError(
            f"The head of {name} has num_labels {config.num_labels} and problem_type "
            f"{getattr(config, 'problem_type', None)!r}; expected at least two labels of which one is right."
        )


def label_rows(labels: Sequence[Label], names: tuple[str, ...] | None, config: Any) -> list[int]:
    """Return the position of each example's label among the outputs of the head.

    names: the option `labels`, None for `id2label` of the configuration. config: of the model that the head is of. A
    number is a position, a text a name. Raises EvaluatorError for a label that the head does not have.
    """
    count = config.num_labels
    if names is not None and len(names) != count:
        raise EvaluatorError(f"`labels` has {len(names)} names; the head has {count} outputs (num_labels).")
    known = tuple(str(config.id2label[i]) for i in range(count)) if names is None else names
    return [_position(label, known) for label in labels]


class ExpertHead:
    """The classification head of a model of the search, which replaces that of the merge.

    Args:
        owner: Name of the model; None for the merge's own head.
        labels: The labels of the examples.
        names: The option `labels`.
        classes: Names of transformers' classes that have such a head. what: "sequence", as in their names.
    """

    def __init__(
        self,
        owner: str | None,
        labels: Sequence[Label],
        names: tuple[str, ...] | None,
        classes: Collection[str],
        what: str,
    ) -> None:
        self.owner, self._labels, self._names = owner, labels, names
        self._classes, self._what = classes, what
        #: Its parameters; None for the merge's own.
        self.parameters: Mapping[str, Tensor] | None = None
        self._right: list[int] | None = None

    @property
    def experts(self) -> tuple[str, ...]:
        """The owner, if it is not the merge."""
        return () if self.owner is None else (self.owner,)

    def check(self, network: Any) -> list[int]:
        """Return the position of each label among the outputs of the owner's network.

        Raises EvaluatorError for one without such a head, and for labels that it does not have.
        """
        check_head(network, self._classes, self._what)
        return label_rows(self._labels, self._names, network.config)

    def check_merge(self, network: Any) -> None:
        """Raise EvaluatorError for a merge without such a head or, if its own counts, without the labels."""
        check_head(network, self._classes, self._what)
        if self.owner is None:
            self.check(network)

    def learn(self, network: Any) -> None:
        """Keep the head of the owner's network. Raises EvaluatorError as `check` does."""
        self._right, self.parameters = self.check(network), head_of(network)

    def right(self, merged: Any) -> list[int]:
        """Return the position of each label. merged: the network of the merge.

        Raises EvaluatorError as `check` does, and before an owner's head is known.
        """
        if self.owner is None:
            return self.check(merged)
        if self._right is None:
            raise EvaluatorError(f"The classification head of {self.owner!r} is not known yet: `learn` comes first.")
        return self._right


def _position(label: Label, names: tuple[str, ...]) -> int:
    value = label.value
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(names):
        return value
    if isinstance(value, str) and names.count(value) == 1:
        return names.index(value)
    shown = f"{', '.join(map(repr, names[:10]))}{', ...' if len(names) > 10 else ''}"
    raise EvaluatorError(
        f"{label.where}: the label is {value!r}; expected a number from 0 to {len(names) - 1}, or one of {shown}. "
        "Correct it, or name the head's outputs in their order with `labels`."
    )


def head_of(network: Any) -> dict[str, Tensor]:
    """Return copies of the parameters outside the body of a network. Raises EvaluatorError if there are none."""
    body = network.base_model_prefix + "."
    found = {name: each.detach().clone() for name, each in network.named_parameters() if not name.startswith(body)}
    if not found:
        raise EvaluatorError(f"{type(network).__name__} has no parameters outside its body {body[:-1]!r}: no head.")
    return found


def read(network: Any, head: Mapping[str, Tensor] | None, inputs: Mapping[str, Tensor]) -> Tensor:
    """Return the log-probabilities of the labels, (n_rows, n_labels), in float32.

    head: parameters to use instead of the network's own, from `head_of`; None for its own. Its weights are not changed.
    """
    found = network(**inputs) if head is None else functional_call(network, dict(head), (), dict(inputs))
    likelihoods: Tensor = found.logits.float().log_softmax(-1)
    return likelihoods


def scores_of(ids: Sequence[str], likelihoods: FloatArray, right: Sequence[int], smooth: str | None) -> Scores:
    """Return the scores of examples: whether the right label is the likeliest, or a smooth score.

    likelihoods: log-probabilities, (n_examples, n_labels). right: positions of the right labels. smooth: as in
    `check_label_score`. Examples whose log-probabilities are not finite have no score.
    """
    finite = np.isfinite(likelihoods).all(1)
    values = np.where(finite, likelihoods.argmax(1) == np.array(right), np.nan)
    if smooth is None:
        return Scores(tuple(ids), values, tuple(likelihoods))
    ones = np.ones(likelihoods.shape[1])
    found = [smooth_value(smooth, row, ones, [label], ones) for row, label in zip(likelihoods, right, strict=True)]
    return Scores(tuple(ids), np.array(found), tuple(likelihoods), metric=values)


def losses_of(likelihoods: Tensor, right: Sequence[int]) -> Tensor:
    """Return the loss of each example, (n_examples,). likelihoods: log-probabilities, (n_examples, n_labels)."""
    return mixed(likelihoods[torch.arange(len(right)), torch.tensor(right, device=likelihoods.device)])
