"""Conversion of trials and outcomes to plain data (JSON) and back. Floats of points survive bit for bit."""

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from math import isfinite, isnan
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluators.base import Scores
from evomerge.recipe.file import merge_from_dict, merge_to_dict
from evomerge.trial import Failure, Outcome, Trial

#: Significant digits kept of log-likelihoods, which are numerous and only rank answers.
CHOICE_DIGITS = 6


def trial_to_dict(trial: Trial, examples: Callable[[str, tuple[str, ...]], int]) -> dict[str, Any]:
    """Convert a trial to plain data. `examples` returns the number under which a task's example ids are stored."""
    data: dict[str, Any] = {
        "number": int(trial.number),
        "x": None if trial.x is None else [float(value) for value in trial.x],
        "merge": None if trial.merge is None else merge_to_dict(trial.merge),
        "label": trial.label,
        "split": trial.split,
        "seed": int(trial.seed),
    }
    if trial.examples is not None:
        data["examples"] = {task: examples(task, ids) for task, ids in trial.examples.items()}
    if trial.extends is not None:
        data["extends"] = int(trial.extends)
    if trial.gradient is not None:
        data["gradient"] = {task: float(weight) for task, weight in trial.gradient.items()}
    if trial.cost != 1.0:
        data["cost"] = float(trial.cost)
    return data


def trial_from_dict(data: Mapping[str, Any], examples: Sequence[tuple[str, ...]]) -> Trial:
    """Restore a trial from `trial_to_dict`; `examples[n]` are the ids stored under the number n."""
    part = data.get("examples")
    return Trial(
        number=data["number"],
        x=None if data["x"] is None else _array(data["x"]),
        merge=None if data["merge"] is None else merge_from_dict(data["merge"]),
        label=data["label"],
        split=data["split"],
        seed=data["seed"],
        examples=None if part is None else {task: examples[number] for task, number in part.items()},
        extends=data.get("extends"),
        gradient=data.get("gradient"),
        cost=data.get("cost", 1.0),
    )


def outcome_to_dict(outcome: Outcome, examples: Callable[[str, tuple[str, ...]], int]) -> dict[str, Any]:
    """Convert an outcome to plain data. `examples` returns the number under which a task's example ids are stored."""
    failure = outcome.failure
    data: dict[str, Any] = {
        "number": int(outcome.number),
        "scores": {
            task: _scores_to_dict(scores, examples(task, scores.example_ids)) for task, scores in outcome.scores.items()
        },
        "failure": None
        if failure is None
        else {"kind": failure.kind, "message": failure.message, "trace": failure.trace},
        "seconds": {stage: float(seconds) for stage, seconds in outcome.seconds.items()},
        "worker": outcome.worker,
        "events": [dict(event) for event in outcome.events],
    }
    if outcome.gradient is not None:
        data["gradient"] = _numbers(outcome.gradient.tolist())
    return data


def outcome_from_dict(data: Mapping[str, Any], examples: Sequence[tuple[str, ...]]) -> Outcome:
    """Restore an outcome from `outcome_to_dict`; `examples[n]` are the ids stored under the number n."""
    return Outcome(
        number=data["number"],
        scores={task: _scores_from_dict(scores, examples) for task, scores in data["scores"].items()},
        gradient=_array(data["gradient"]) if "gradient" in data else None,
        failure=None if data["failure"] is None else Failure(**data["failure"]),
        seconds=data["seconds"],
        worker=data["worker"],
        events=tuple(data["events"]),
    )


def _scores_to_dict(scores: Scores, examples: int) -> dict[str, Any]:
    choices = scores.choices
    return {
        "examples": examples,
        "values": _numbers(scores.values.tolist()),
        "choices": None if choices is None else _choices_to_lists(choices),
        "truncated": None if scores.truncated is None else int(scores.truncated),
        **({} if scores.accepted is None else {"accepted": list(scores.accepted)}),
        **({} if scores.metric is None else {"metric": _numbers(scores.metric.tolist())}),
    }


def _scores_from_dict(data: Mapping[str, Any], examples: Sequence[tuple[str, ...]]) -> Scores:
    choices = None if data["choices"] is None else _choices_from_lists(data["choices"])
    accepted = tuple(data["accepted"]) if "accepted" in data else None
    metric = _array(data["metric"]) if "metric" in data else None
    return Scores(examples[data["examples"]], _array(data["values"]), choices, data["truncated"], accepted, metric)


def _number(value: float) -> float | str | None:
    """Encode a number for JSON, which has no NaN (null: not scored) and no infinities ("inf", "-inf")."""
    if isnan(value):
        return None
    return value if isfinite(value) else str(value)


def _numbers(values: Sequence[float]) -> Sequence[float | str | None]:
    # Most are finite, and a trial has thousands.
    return values if all(map(isfinite, values)) else [_number(value) for value in values]


def _choices_to_lists(choices: Sequence[NDArray[np.float64]]) -> list[Sequence[float | str | None]]:
    flat = np.concatenate(choices).tolist() if choices else []
    texts = (f"%.{CHOICE_DIGITS}g " * len(flat) % tuple(flat)).split()
    rounded = _numbers([float(text) for text in texts])
    ends = list(accumulate(map(len, choices)))
    return [rounded[end - len(row) : end] for row, end in zip(choices, ends, strict=True)]


def _choices_from_lists(rows: Sequence[Sequence[float | str | None]]) -> tuple[NDArray[np.float64], ...]:
    # One array of all examples, where they have equally many answers, takes a quarter of the time.
    return tuple(_array(rows)) if len(set(map(len, rows))) == 1 else tuple(map(_array, rows))


def _array(values: Sequence[Any]) -> NDArray[np.float64]:
    array = np.array(values, dtype=np.float64)  # reads None as NaN, and the texts of infinities
    array.flags.writeable = False
    return array
