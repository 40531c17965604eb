"""lm-eval's metrics as one number per document, whose mean over all documents is the number that lm-eval prints."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from lm_eval.api.metrics import bits_per_byte, brier_score, mean, nanmean, perplexity, weighted_perplexity
from lm_eval.api.registry import AGGREGATION_REGISTRY

from evaluators.base import EvaluatorError

Aggregation = Callable[..., Any]


def _brier(value: Any) -> float:
    gold, probabilities = value
    return float(np.sum((probabilities - np.eye(len(probabilities))[gold]) ** 2))


#: Aggregations that are a mean over documents, or the exponential of one, with the number of a document.
OF_DOCUMENT: Mapping[Aggregation, Callable[[Any], float]] = {
    mean: float,
    nanmean: float,
    brier_score: _brier,
    perplexity: lambda value: -float(value),
}
#: Aggregations of pairs (log-likelihood, words or bytes), with the nats in one unit of the values, per word or byte.
OF_TEXT: Mapping[Aggregation, float] = {weighted_perplexity: 1.0, bits_per_byte: math.log(2)}

#: Metrics whose values here are logarithms of lm-eval's, so that they can be averaged; smaller is better.
LOGARITHMS = (perplexity, weighted_perplexity)
LOSSES = (*LOGARITHMS, bits_per_byte)


@dataclass(frozen=True)
class Metric:
    """A metric of every task of a group.

    name: lm-eval's name. aggregations: by task. lengths: mean words or bytes per document, for tasks that need them: a
    text is weighted by its length, so that the mean equals lm-eval's ratio of sums.
    """

    name: str
    higher_is_better: bool
    aggregations: Mapping[str, Aggregation] = field(default_factory=dict)
    lengths: Mapping[str, float] = field(default_factory=dict)

    def value(self, task: str, results: Mapping[str, Any]) -> float:
        """Return the value of one document of `task`, from the result of the task's process_results.

        Raises EvaluatorError for a metric that is missing or not a number.
        """
        if self.name not in results:
            raise EvaluatorError(
                f"The task returned no metric {self.name!r}; it returned {', '.join(results) or 'none'}."
            )
        value = results[self.name]
        aggregation = self.aggregations.get(task, mean)
        try:
            if aggregation in OF_TEXT:
                return -float(value[0]) / self.lengths[task] / OF_TEXT[aggregation]
            return OF_DOCUMENT[aggregation](value)
        except (TypeError, ValueError, IndexError) as error:
            raise EvaluatorError(
                f"The metric {self.name!r} of a document is {value!r}, not a number; choose another `metric`."
            ) from error


def choose(tasks: Mapping[str, Any], group: Any, name: str | None, counts: Sequence[int]) -> Metric:
    """Return the metric `name`, or the first that every task averages over documents with a known direction.

    group: lm-eval's group of the tasks, or None. counts: documents of each task.
    Raises EvaluatorError, listing the usable metrics, if there is none, or if a group's mean is not one over documents.
    """
    usable = [_usable(task) for task in tasks.values()]
    shared = [metric for metric in usable[0] if all(metric in others for others in usable[1:])]
    listed = _aggregated(group)
    if listed is not None:
        shared = [metric for metric in listed if metric in shared]
    wanted = shared[0] if name is None and shared else name
    if wanted in shared:
        directions = {bool(metrics[wanted]) for metrics in usable}
        if len(directions) == 1:
            _check_group(tasks, group, wanted, counts)
            return Metric(wanted, directions.pop(), {key: _aggregation(task, wanted) for key, task in tasks.items()})
    if (
        wanted is not None
        and listed is None
        and all(_open(task) for task in tasks.values())
        and not _known(tasks, wanted)
    ):
        return Metric(wanted, higher_is_better=True)
    asked = "" if listed is None else f" and that the group {group.name!r} aggregates ({', '.join(listed)})"
    raise EvaluatorError(
        f"metric is {name!r}; expected one that all tasks average over documents{asked}, in the same direction: "
        f"{', '.join(shared) or 'there is none'}.{_refused(tasks)}"
    )


def choose_filter(tasks: Mapping[str, Any], group: Any, metric: str, name: str | None) -> str:
    """Return the answer filter `name`, or the tasks' first one. Raises EvaluatorError, listing the available ones."""
    names = [[ensemble.name for ensemble in task._filters] for task in tasks.values()]
    shared = [found for found in names[0] if all(found in others for others in names[1:])]
    listed = (_aggregated(group) or {}).get(metric)
    if listed is not None:
        shared = [found for found in listed if found in shared]
    if (name is None and not shared) or (name is not None and name not in shared):
        raise EvaluatorError(
            f"filter is {name!r}; expected one that all tasks have: {', '.join(shared) or 'there is none'}."
        )
    return shared[0] if name is None else name


def with_lengths(metric: Metric, tasks: Mapping[str, Any], documents: Mapping[str, Sequence[Any]]) -> Metric:
    """Return the metric with the mean length of each task's documents, if it is weighted by length."""
    lengths = {}
    for name, task in tasks.items():
        if metric.aggregations.get(name) in OF_TEXT:
            pairs = [task.process_results(document, [0.0])[metric.name] for document in documents[name]]
            lengths[name] = float(np.mean([length for _, length in pairs]))
            if not lengths[name] > 0:
                raise EvaluatorError(f"The documents of the task {name!r} are empty.")
    return replace(metric, lengths=lengths)


def _check_group(tasks: Mapping[str, Any], group: Any, metric: str, counts: Sequence[int]) -> None:
    """Raise EvaluatorError for a group whose score is not a mean over all of its documents."""
    found = next((entry for entry in _entries(group) if entry.metric == metric), None)
    if found is None or len(tasks) == 1:
        return
    instead = (
        f"name its tasks one by one in `tasks` ({', '.join(map(repr, list(tasks)[:3]))}, ...): "
        "`objective: mean` then weights them equally"
    )
    if not found.weight_by_size and len(set(counts)) > 1:
        raise EvaluatorError(
            f"The group {group.name!r} weights its tasks equally (weight_by_size: false), and they have {min(counts)} "
            f"to {max(counts)} documents, so that its {metric} is not a mean over documents: {instead}."
        )
    if any(_aggregation(task, metric) in LOGARITHMS for task in tasks.values()):
        raise EvaluatorError(
            f"The group {group.name!r} averages {metric} over its tasks, which is not a mean over documents: {instead}."
        )


def _entries(group: Any) -> Sequence[Any]:
    return () if group is None else group.aggregate_metric_list or ()


def _aggregated(group: Any) -> dict[str, list[str] | None] | None:
    """Return metric -> filters (None: all) that a group aggregates; None without such a list."""
    entries = _entries(group)
    return {entry.metric: entry.filter_list for entry in entries} if entries else None


def _aggregation(task: Any, metric: str) -> Aggregation:
    found: Aggregation = task.aggregation().get(metric, mean)
    return found


def _usable(task: Any) -> dict[str, bool]:
    """Return metric -> whether higher is better, in the task's order."""
    found = {}
    for name, higher in task.higher_is_better().items():
        aggregation = _aggregation(task, name)
        if aggregation in LOSSES:
            found[name] = False
        elif higher is not None and aggregation in OF_DOCUMENT:
            found[name] = bool(higher)
    return found


def _refused(tasks: Mapping[str, Any]) -> str:
    """Describe the metrics that are computed from all documents at once."""
    names = {function: name for name, function in AGGREGATION_REGISTRY.items()}
    refused = {
        name: names.get(_aggregation(task, name), "a function of the task's own")
        for task in tasks.values()
        for name in task.higher_is_better()
        if _aggregation(task, name) not in (*OF_DOCUMENT, *OF_TEXT)
    }
    listed = ", ".join(f"{name} ({aggregation})" for name, aggregation in refused.items())
    return f" Metrics computed from all documents at once have no value per document: {listed}." if listed else ""


def _open(task: Any) -> bool:
    """Return whether the task may return metrics that it does not declare (pass@k)."""
    return bool(task.OUTPUT_TYPE == "generate_until")


def _known(tasks: Mapping[str, Any], name: str) -> bool:
    return any(name in task.higher_is_better() for task in tasks.values())
