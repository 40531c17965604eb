"""Conversion of trials and outcomes to plain data (JSON) and back: floats keep every bit, log-likelihoods float32."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluators.base import Scores
from evomerge.recipe.file import merge_from_dict, merge_to_dict
from evomerge.study.example_lists import ExampleLists
from evomerge.study.lines import UNREADABLE, StudyError
from evomerge.study.packing import packed, rounded, unpacked
from evomerge.trial import Failure, Outcome, Trial


def trial_to_dict(trial: Trial, examples: Callable[[str, tuple[str, ...]], int]) -> dict[str, Any]:
    """Convert a trial to plain data. `examples` returns the number under which a task's example ids are stored."""
    data: dict[str, Any] = {
        "number": int(trial.number),
        "x": None if trial.x is None else packed(trial.x),
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


def trial_from_dict(data: Mapping[str, Any], examples: ExampleLists) -> Trial:
    """Restore a trial from `trial_to_dict`; `examples` has the ids by number."""
    part = data.get("examples")
    return Trial(
        number=data["number"],
        x=None if data["x"] is None else unpacked(data["x"]),
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
        data["gradient"] = packed(outcome.gradient)
    return data


def outcome_from_dict(data: Mapping[str, Any], examples: ExampleLists) -> Outcome:
    """Restore an outcome from `outcome_to_dict`; `examples` has the ids by number."""
    return Outcome(
        number=data["number"],
        scores=StoredScores(data["scores"], examples),
        gradient=unpacked(data["gradient"]) if "gradient" in data else None,
        failure=None if data["failure"] is None else Failure(**data["failure"]),
        seconds=data["seconds"],
        worker=data["worker"],
        events=tuple(data["events"]),
    )


class StoredScores(Mapping[str, Scores]):
    """Scores by task, decoded on first access: a study has many more of them than a command looks at."""

    def __init__(self, data: Mapping[str, Any], examples: ExampleLists) -> None:
        self._data, self._examples = data, examples
        self._found: dict[str, Scores] = {}

    def __getitem__(self, task: str) -> Scores:
        found = self._found.get(task)
        if found is None:
            data = self._data[task]
            try:
                found = self._found[task] = _scores_from_dict(data, self._examples)
            except UNREADABLE as error:
                raise StudyError(
                    f"The scores on task {task!r:.80} in the ledger cannot be read, although their checksum is right: "
                    f"{error!r:.200}. No evomerge wrote them so; restore the ledger from a copy."
                ) from error
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._data)

    def __len__(self) -> int:
        return len(self._data)

    def of(self, tasks: Iterable[str]) -> "StoredScores":
        """Return the scores of these tasks in their order. Raises KeyError where one is missing."""
        tasks = tuple(tasks)
        if tasks == tuple(self._data):
            return self
        found = StoredScores({task: self._data[task] for task in tasks}, self._examples)
        found._found = self._found
        return found

    @property
    def numbers(self) -> tuple[object, list[tuple[str, int]]]:
        """The lists of the study, and the number of its list for each task: equal where the examples are the same."""
        return id(self._examples), [(task, data["examples"]) for task, data in self._data.items()]

    def ids_of(self, task: str) -> tuple[str, ...]:
        """Return the ids of a task's examples."""
        return self._examples[self._data[task]["examples"]]


def ids_of(scores: Mapping[str, Scores], task: str) -> tuple[str, ...]:
    """Return the ids of a task's examples, without decoding stored scores."""
    return scores.ids_of(task) if isinstance(scores, StoredScores) else scores[task].example_ids


def same_examples(a: Mapping[str, Scores], b: Mapping[str, Scores]) -> bool:
    """Return whether the tasks of `a` have the same examples in `b`, without decoding stored scores."""
    if isinstance(a, StoredScores) and isinstance(b, StoredScores) and a.numbers == b.numbers:
        return True
    pairs = ((ids_of(a, task), ids_of(b, task)) for task in a)
    return all(mine is theirs or mine == theirs for mine, theirs in pairs)


def _scores_to_dict(scores: Scores, examples: int) -> dict[str, Any]:
    choices = scores.choices
    return {
        "examples": examples,
        "values": packed(scores.values),
        "choices": None if choices is None else _choices_to_dict(choices),
        "truncated": None if scores.truncated is None else int(scores.truncated),
        **({} if scores.accepted is None else {"accepted": list(scores.accepted)}),
        **({} if scores.metric is None else {"metric": packed(scores.metric)}),
    }


def _scores_from_dict(data: Mapping[str, Any], examples: ExampleLists) -> Scores:
    choices = None if data["choices"] is None else _choices_from(data["choices"])
    accepted = tuple(data["accepted"]) if "accepted" in data else None
    metric = unpacked(data["metric"]) if "metric" in data else None
    return Scores(examples[data["examples"]], unpacked(data["values"]), choices, data["truncated"], accepted, metric)


def _choices_to_dict(choices: Sequence[NDArray[np.float64]]) -> dict[str, Any]:
    counts = [len(row) for row in choices]
    same = len(set(counts)) == 1
    flat = np.concatenate(choices) if choices else np.empty(0)
    return {"counts": counts[0] if same else counts, "values": rounded(flat)}


def _choices_from(data: Any) -> tuple[NDArray[np.float64], ...]:
    if not isinstance(data, Mapping):  # before schema 3
        return tuple(map(unpacked, data))
    flat, counts = unpacked(data["values"]), data["counts"]
    if isinstance(counts, int):
        return tuple(flat.reshape(-1, counts))
    ends = list(accumulate(counts))
    return tuple(flat[end - count : end] for count, end in zip(counts, ends, strict=True))
