"""Metrics of lm-eval as one number per document, whose mean is what lm-eval prints."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lm_eval.api.metrics import mean, nanmean

from evaluators.base import EvaluatorError

#: Log-likelihoods, and pairs with a number of words or bytes, that lm-eval turns into one figure over all
#: documents. Here: nats (bits) per document, word or byte, a mean over documents; smaller is better.
FROM_LIKELIHOOD: Mapping[str, Callable[[Any], float]] = {
    "perplexity": lambda value: -float(value),
    "word_perplexity": lambda value: -float(value[0]) / value[1],
    "byte_perplexity": lambda value: -float(value[0]) / value[1],
    "bits_per_byte": lambda value: -float(value[0]) / value[1] / math.log(2),
}


@dataclass(frozen=True)
class Metric:
    """A metric of every task of a group. name: as lm-eval calls it."""

    name: str
    higher_is_better: bool

    def value(self, results: Mapping[str, Any]) -> float:
        """The number of one document, from what the task's process_results returned.

        Raises EvaluatorError for a metric that is not there or is no number.
        """
        if self.name not in results:
            raise EvaluatorError(f"The task gave no metric {self.name!r}; it gave {', '.join(results)}.")
        value = results[self.name]
        convert = FROM_LIKELIHOOD.get(self.name, float)
        try:
            return convert(value)
        except (TypeError, ValueError) as error:
            raise EvaluatorError(
                f"The metric {self.name!r} of a document is {value!r}, not a number; choose another `metric`."
            ) from error


def choose(tasks: Sequence[Any], name: str | None) -> Metric:
    """The metric `name`, or the first that every task averages over documents with a known direction.

    Raises EvaluatorError with the usable ones when there is none.
    """
    usable = [_usable(task) for task in tasks]
    shared = [metric for metric in usable[0] if all(metric in others for others in usable[1:])]
    wanted = shared[0] if name is None and shared else name
    if wanted in shared:
        directions = {bool(metrics[wanted]) for metrics in usable}
        if len(directions) == 1:
            return Metric(wanted, directions.pop())
    if wanted is not None and all(_open(task) for task in tasks) and not _known(tasks, wanted):
        return Metric(wanted, higher_is_better=True)
    raise EvaluatorError(
        f"metric is {name!r}; expected one that all tasks average over documents, in the same direction: "
        f"{', '.join(shared) or 'there is none'}."
    )


def choose_filter(tasks: Sequence[Any], name: str | None) -> str:
    """The answer filter `name`, or the first one of the tasks. Raises EvaluatorError with those there are."""
    names = [[ensemble.name for ensemble in task._filters] for task in tasks]
    shared = [found for found in names[0] if all(found in others for others in names[1:])]
    if (name is None and not shared) or (name is not None and name not in shared):
        raise EvaluatorError(f"filter is {name!r}; expected one that all tasks have: {', '.join(shared)}.")
    return shared[0] if name is None else name


def _usable(task: Any) -> dict[str, bool]:
    """Metric -> whether higher is better, in the task's order."""
    aggregations = task.aggregation()
    found = {}
    for name, higher in task.higher_is_better().items():
        if name in FROM_LIKELIHOOD:
            found[name] = False
        elif higher is not None and aggregations.get(name, mean) in (mean, nanmean):
            found[name] = bool(higher)
    return found


def _open(task: Any) -> bool:
    """Whether the task may return metrics that it does not declare (pass@k)."""
    return bool(task.OUTPUT_TYPE == "generate_until")


def _known(tasks: Sequence[Any], name: str) -> bool:
    return any(name in task.higher_is_better() for task in tasks)
