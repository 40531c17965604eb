"""Differentiable losses of lm-eval's tasks: what the right answer of a document is under the task's metric.

A likelihood has an aim, a function from the log-likelihoods of the document's requests to its loss. A generated answer
has a text that the metric accepts, of which the task's own filters and process_results decide.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
from lm_eval.api.task import ConfigurableTask
from lm_eval.models.utils import normalize_gen_kwargs
from torch import Tensor

from evaluators._lm_eval_documents import Document
from evaluators._lm_eval_metrics import OF_TEXT, Metric
from evaluators._losses import mixed, of_choices
from evaluators._teacher import FileAnswer
from evaluators.base import FloatArray

#: Log-likelihoods of a document's requests, (n_requests,), and their numbers of tokens -> the loss, ().
Aim = Callable[[Tensor, Sequence[int]], Tensor]

#: Metrics of multiple choice -> divisor of a choice's log-likelihood.
_DIVISORS: Mapping[str, Callable[[str], float]] = {
    "acc": lambda _: 1,
    "acc_mutual_info": lambda _: 1,
    "brier_score": lambda _: 1,
    "acc_norm": len,
    "acc_bytes": lambda choice: len(choice.encode()),
}
_WITHOUT = "Use an optimizer that needs no gradients, or another `metric`, for this task."


def objection(name: str, task: Any, metric: Metric) -> str | None:
    """Return why documents of a task have no loss, as one sentence and a remedy; None if they may have one."""
    kind, own = task.OUTPUT_TYPE, computes_itself(task)
    why = None
    if kind == "generate_until":
        if (task.get_config("repeats") or 1) > 1:
            why = f"it generates {task.get_config('repeats')} answers to each prompt"
        elif not metric.higher_is_better:
            why = f"its metric {metric.name!r} of generated answers is better if it is smaller"
    elif kind == "loglikelihood_rolling":
        if metric.aggregations.get(name) not in OF_TEXT:
            why = f"its metric {metric.name!r} is not a perplexity"
    elif own:
        why = f"it computes its metric {metric.name!r} itself (process_results), so that the right answer is unknown"
    elif (
        metric.name
        not in {"multiple_choice": (*_DIVISORS, "exact_match"), "loglikelihood": ("acc", "perplexity")}[kind]
    ):
        why = f"its metric {metric.name!r} does not follow from the probability of a right answer"
    return None if why is None else f"The task {name!r} has no differentiable loss: {why}. {_WITHOUT}"


def aim(document: Document, metric: str) -> Aim | None:
    """Return the loss of a document that is scored by likelihoods; None if its right answer is not among its choices.

    Only for tasks without `objection`.
    """
    kind = document.task.OUTPUT_TYPE
    if kind == "loglikelihood_rolling":
        return lambda values, sizes: -values.sum() / sum(sizes)
    if kind == "loglikelihood":
        if metric == "perplexity":
            return lambda values, _: -values[0]
        return lambda values, sizes: mixed(values[0], sizes[0])
    choices = document.task.doc_to_choice(document.content)
    right = right_choices(document, choices)
    if not right:
        return None
    if metric == "exact_match":
        return lambda values, sizes: mixed(values[right[0]], sizes[right[0]])
    divisors = divisors_of(metric, choices)
    if not divisors.all():
        return None
    count = len(choices)
    if metric == "acc_mutual_info":
        return lambda values, _: of_choices(values[:count] - values[count:], divisors, right)
    return lambda values, _: of_choices(values[:count], divisors, right)


def answers(document: Document, *, chat: bool) -> Iterator[FileAnswer]:
    """Yield the target's texts as a model may generate them, each after the delimiter and without it."""
    task, stop = document.task, stops(document.task)
    if getattr(task, "UNSAFE_CODE", False):
        return
    lead = _lead(document, chat=chat)
    follows = task.get_config("fewshot_delimiter") or "" if task.get_config("num_fewshot") else ""
    for text in _targets(document):
        own = lead if text else ""
        for bare in (False, True) if own else (False,):
            answer = FileAnswer(text, own, bare=bare, follows=follows, chat=chat)
            if not any(each in answer.generated for each in stop):
                yield answer


def stops(task: Any) -> list[str]:
    """Return the strings that end a generated answer, as lm-eval reads them."""
    found = normalize_gen_kwargs(deepcopy(task.get_config("generation_kwargs") or {}), 1)["until"]
    return [text for text in found if text]


def computes_itself(task: Any) -> bool:
    """Return whether not lm-eval's own process_results computes the metrics."""
    standard = getattr(type(task), "process_results", None) is ConfigurableTask.process_results
    return not standard or callable(task.get_config("process_results"))


def divisors_of(metric: str, choices: Sequence[str]) -> FloatArray:
    """Return the divisors of the choices' log-likelihoods under a metric of multiple choice, (n_choices,)."""
    return np.array([_DIVISORS[metric](choice) for choice in choices], dtype=np.float64)


def right_choices(document: Document, choices: Sequence[str]) -> list[int]:
    """Return the positions of the right choices, as lm-eval's process_results finds them."""
    gold = document.task.doc_to_text(document.content) if document.task.multiple_input else document.target
    if isinstance(gold, str):
        gold = choices.index(gold) if gold in choices else -1
    listed = gold if isinstance(gold, list) else [gold]
    return [one for one in dict.fromkeys(listed) if isinstance(one, int) and 0 <= one < len(choices)]


def _targets(document: Document) -> list[str]:
    target = document.target
    if document.task.get_config("doc_to_choice") is not None and isinstance(target, int):
        target = document.task.doc_to_choice(document.content)[target]
    listed = target if isinstance(target, list | tuple) else [target]
    return [str(text) for text in listed if text is not None]


def _lead(document: Document, *, chat: bool) -> str:
    """Return the delimiter between prompt and answer; none after white space or, as in lm-eval, in a chat."""
    prefix = document.task.doc_to_prefix(document.content) or ""
    before = prefix or ("" if chat else str(document.task.doc_to_text(document.content)))
    if before != before.rstrip() or (chat and not prefix):
        return ""
    return str(document.task.get_config("target_delimiter") or "")
