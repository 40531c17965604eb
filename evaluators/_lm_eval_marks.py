"""Values of lm-eval documents by the tasks' own filters and process_results, and generated texts with full marks."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from lm_eval.api.instance import Instance

from evaluators._lm_eval_build import reason
from evaluators._lm_eval_documents import Document
from evaluators._lm_eval_losses import answers
from evaluators._lm_eval_metrics import Metric
from evaluators._lm_eval_requests import Response
from evaluators._teacher import FileAnswer
from evaluators.base import EvaluatorError

#: Instances of each document.
Instances = Sequence[list[Any]] | Mapping[int, list[Any]]


@dataclass(frozen=True)
class Target:
    """The document's own answer, if the metric accepts it as it is, and the value of full marks."""

    answer: FileAnswer | None
    full: float = 1.0


class Marks:
    """One metric after one filter, on all documents. chat: whether prompts are presented as a chat."""

    def __init__(self, documents: Sequence[Document], metric: Metric, filter_name: str, *, chat: bool) -> None:
        self._documents = documents
        self._metric = metric
        self._filter = filter_name
        self._chat = chat
        self._targets: dict[int, Target] = {}

    @cached_property
    def generating(self) -> frozenset[int]:
        """The documents whose answers are generated."""
        documents = enumerate(self._documents)
        return frozenset(row for row, document in documents if document.task.OUTPUT_TYPE == "generate_until")

    def fill(self, instances: Instances, rows: Sequence[int], responses: Sequence[Response]) -> None:
        """Put the answers into the Instances of the documents and run the tasks' filters over them."""
        asked: dict[int, list[Any]] = {}
        for row, response in zip(rows, responses, strict=True):
            for instance, given in zip(instances[row], response.answers, strict=True):
                instance.resps, instance.filtered_resps = given, {}
            asked.setdefault(id(self._documents[row].task), []).extend(instances[row])
        for task in {id(d.task): d.task for d in map(self._documents.__getitem__, rows)}.values():
            for ensemble in task._filters:
                if asked[id(task)] and ensemble.name == self._filter:
                    ensemble.apply(asked[id(task)])

    def value(self, row: int, instances: Sequence[Any]) -> float:
        """Return the value of one document. Raises EvaluatorError, naming the document, if it cannot be scored."""
        document = self._documents[row]
        given = [instance.filtered_resps[self._filter] for instance in instances]
        try:
            return self._metric.value(document.name, document.task.process_results(document.content, given))
        except Exception as error:  # a task's own function may raise anything
            raise EvaluatorError(f"{document}: {reason(error)}.") from error

    def accepted(
        self, rows: Sequence[int], responses: Sequence[Response], values: Sequence[float]
    ) -> tuple[str | None, ...] | None:
        """Return the generated texts with full marks; None if no answer is generated."""
        if not self.generating:
            return None
        good = (
            {row for row, value in zip(rows, values, strict=True) if value >= 1}
            if self._metric.higher_is_better
            else ()
        )
        targets = self.targets(self.generating.intersection(good))
        return tuple(
            response.verbatim if row in targets and value >= targets[row].full else None
            for row, response, value in zip(rows, responses, values, strict=True)
        )

    def targets(self, rows: Iterable[int]) -> dict[int, Target]:
        """Return what the metric accepts of the documents' targets, tried once as if a model had generated them."""
        wanted = sorted(rows)
        new = {row: list(answers(self._documents[row], chat=self._chat)) for row in wanted if row not in self._targets}
        values: dict[int, list[float]] = {row: [] for row in new}
        for k in range(max(map(len, new.values()), default=0)):
            tried = {row: texts[k].generated for row, texts in new.items() if k < len(texts)}
            for row, value in self._values_of(tried).items():
                values[row].append(value)
        for row, found in values.items():
            best = max(found, default=0.0)
            self._targets[row] = Target(new[row][found.index(best)], best) if best >= 1 else Target(None)
        return {row: self._targets[row] for row in wanted}

    def _values_of(self, texts: Mapping[int, str]) -> dict[int, float]:
        """Return the values of made-up generations by document; 0 for those that cannot be scored."""
        instances = {row: [Instance("generate_until", self._documents[row].content, ("", {}), 0)] for row in texts}
        self.fill(instances, list(texts), [Response([[text]]) for text in texts.values()])
        return {row: self._value_or_0(row, instances[row]) for row in texts}

    def _value_or_0(self, row: int, instances: Sequence[Any]) -> float:
        try:
            return float(np.nan_to_num(self.value(row, instances)))
        except EvaluatorError:
            return 0.0
