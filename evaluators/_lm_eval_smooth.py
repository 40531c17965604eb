"""Smooth scores of lm-eval's documents, for a search, from the log-likelihoods of their requests."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, log
from typing import Any

import numpy as np

from evaluators._choices import LEAST, smooth_value
from evaluators._lm_eval_documents import Document
from evaluators._lm_eval_losses import computes_itself, divisors_of, right_choices
from evaluators._lm_eval_metrics import Metric
from evaluators._lm_eval_requests import Response
from evaluators.base import EvaluatorError, FloatArray

#: Output type -> metrics whose right answer is known.
_METRICS: Mapping[str, tuple[str, ...]] = {
    "multiple_choice": ("acc", "acc_norm", "acc_bytes", "acc_mutual_info"),
    "loglikelihood": ("acc",),
}


@dataclass(frozen=True)
class _Choices:
    """The right choices of a document, and the metric's divisors of all, (n_choices,)."""

    right: Sequence[int]
    by: FloatArray


class Smooth:
    """A smooth score of documents.

    Args:
        documents: The documents.
        metric: The task's metric.
        score: Name of the score; None for none.

    Raises:
        EvaluatorError: A task has no such score, or a document no right answer.
    """

    def __init__(self, documents: Sequence[Document], metric: Metric, score: str | None) -> None:
        self._documents, self._metric, self._score = documents, metric.name, score
        self._known: dict[int, _Choices | None] = {}
        if score is not None:
            for name, task in {document.name: document.task for document in documents}.items():
                _check(name, task, metric.name, score)
            self._known = {row: self._right(document) for row, document in enumerate(documents)}

    def values(
        self, rows: Sequence[int], instances: Sequence[Sequence[Any]], responses: Sequence[Response]
    ) -> list[float] | None:
        """Return the score of each document, from the answers to its requests; None without a smooth score."""
        if self._score is None:
            return None
        return [self._value(row, instances[row], given) for row, given in zip(rows, responses, strict=True)]

    def _value(self, row: int, instances: Sequence[Any], response: Response) -> float:
        likelihoods = np.array([answers[0][0] for answers in response.answers], dtype=np.float64)
        n_bytes = np.array([len(str(instance.args[1]).strip().encode()) for instance in instances], dtype=np.float64)
        known = self._known[row]
        if known is None:
            return _of_continuation(str(self._score), float(likelihoods[0]), float(n_bytes[0]))
        count = len(known.by)
        if self._metric == "acc_mutual_info" and self._score != "bits_per_byte":
            likelihoods = likelihoods[:count] - likelihoods[count:]
        return smooth_value(str(self._score), likelihoods[:count], known.by, known.right, n_bytes[:count])

    def _right(self, document: Document) -> _Choices | None:
        """Return the right choices of a document; None for a single continuation. Raises EvaluatorError."""
        if document.task.OUTPUT_TYPE == "loglikelihood":
            return None
        choices = document.task.doc_to_choice(document.content)
        right, by = right_choices(document, choices), divisors_of(self._metric, choices)
        if not right or not by.all():
            raise EvaluatorError(
                f"{document} has no right choice, or an empty one, so it has no {self._score}: correct or remove it, "
                "or use `score: accuracy`."
            )
        return _Choices(right, by)


def _check(name: str, task: Any, metric: str, score: str) -> None:
    """Raise EvaluatorError for a task that has no smooth score."""
    kind = task.OUTPUT_TYPE
    if kind not in _METRICS:
        why = f"its output type is {kind}"
    elif computes_itself(task):
        why = "it computes its metric itself (process_results), so that the right answer is unknown"
    elif metric not in _METRICS[kind]:
        why = f"its metric is {metric!r}, not one of {', '.join(_METRICS[kind])}"
    else:
        return
    raise EvaluatorError(f"The task {name!r} has no {score}: {why}. Leave out `score`, or choose another `metric`.")


def _of_continuation(score: str, likelihood: float, n_bytes: float) -> float:
    """Return the score of a right continuation from its log-likelihood in nats; NaN if that is not finite."""
    if not np.isfinite(likelihood):
        return float("nan")
    if score == "bits_per_byte":
        return -likelihood / n_bytes / log(2)
    return exp(likelihood) if score == "probability" else max(LEAST, likelihood)
