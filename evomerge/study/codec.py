"""Conversion of trials and outcomes to plain data (JSON) and back: floats keep every bit, log-likelihoods float32."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

import msgspec
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


class _Trial(msgspec.Struct):
    """The fields of `trial_to_dict`."""

    number: int
    x: str | list[Any] | None
    merge: dict[str, Any] | None
    label: str
    split: str
    seed: int
    examples: dict[str, int] | None = None
    extends: int | None = None
    gradient: dict[str, float] | None = None
    cost: float = 1.0


class _Outcome(msgspec.Struct):
    """The fields of `outcome_to_dict`."""

    number: int
    scores: msgspec.Raw
    failure: Failure | None
    seconds: dict[str, float]
    worker: str
    events: tuple[dict[str, Any], ...]
    gradient: str | list[Any] | None = None


class _Told(_Outcome, kw_only=True):
    losses: tuple[float, ...] | None


class _Learned(msgspec.Struct):
    trial: msgspec.Raw
    outcome: msgspec.Raw
    observed: bool
    reused: bool


class _Scored(msgspec.Struct):
    """The list of a task's examples."""

    examples: int


_TRIAL = msgspec.json.Decoder(_Trial).decode
_OUTCOME = msgspec.json.Decoder(_Outcome).decode
_TOLD = msgspec.json.Decoder(_Told).decode
_LEARNED = msgspec.json.Decoder(_Learned).decode
_SCORED = msgspec.json.Decoder(dict[str, _Scored]).decode
_SCORES = msgspec.json.Decoder(dict[str, dict[str, Any]]).decode


def read_trial(data: msgspec.Raw, examples: ExampleLists) -> Trial:
    """Read a trial from the JSON of `trial_to_dict`; `examples` has the ids by number."""
    read = _TRIAL(data)
    x, merge, part = read.x, read.merge, read.examples
    return Trial(
        read.number,
        None if x is None else unpacked(x),
        None if merge is None else merge_from_dict(merge),
        read.label,
        read.split,
        read.seed,
        None if part is None else {task: examples[number] for task, number in part.items()},
        read.extends,
        read.gradient,
        read.cost,
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


def read_told(data: msgspec.Raw, examples: ExampleLists) -> tuple[Outcome, tuple[float, ...] | None]:
    """Read the outcome and the losses of a `told` record."""
    told = _TOLD(data)
    return _outcome(told, examples), told.losses


def read_learned(data: msgspec.Raw, examples: ExampleLists) -> tuple[Trial, Outcome, bool, bool]:
    """Read the trial of a `learned` record, its outcome, whether it is observed, and whether it is reused."""
    learned = _LEARNED(data)
    outcome = _outcome(_OUTCOME(learned.outcome), examples)
    return read_trial(learned.trial, examples), outcome, learned.observed, learned.reused


def _outcome(read: _Outcome, examples: ExampleLists) -> Outcome:
    return Outcome(
        read.number,
        StoredScores(read.scores, examples),
        None if read.gradient is None else unpacked(read.gradient),
        read.failure,
        read.seconds,
        read.worker,
        read.events,
    )


class StoredScores(Mapping[str, Scores]):
    """Scores by task, decoded on first access: a study has many more of them than a command looks at."""

    __slots__ = ("_data", "_examples", "_found", "_lists", "_text")

    def __init__(self, text: msgspec.Raw, examples: ExampleLists) -> None:
        self._text, self._examples = text, examples
        self._lists: dict[str, _Scored] | None = None
        self._data: dict[str, dict[str, Any]] | None = None
        self._found: dict[str, Scores] = {}

    def __getitem__(self, task: str) -> Scores:
        if task not in self._by_task:
            raise KeyError(task)
        if task not in self._found:
            try:
                self._data = self._data or _SCORES(self._text)
                self._found[task] = _scores_from_dict(self._data[task], self._examples)
            except UNREADABLE as error:
                raise _unreadable(f"The scores on task {task!r:.80} in the ledger", error) from error
        return self._found[task]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_task)

    def __len__(self) -> int:
        return len(self._by_task)

    def of(self, tasks: Iterable[str]) -> "StoredScores":
        """Return the scores of these tasks in their order. Raises KeyError where one is missing."""
        tasks, lists = tuple(tasks), self._by_task
        if tasks == tuple(lists):
            return self
        found = StoredScores(self._text, self._examples)
        found._lists = {task: lists[task] for task in tasks}
        return found

    def has_lists_of(self, other: "StoredScores") -> bool:
        """Return whether both have the same tasks with the same lists of examples of one study."""
        return self._examples is other._examples and self._by_task == other._by_task

    def ids_of(self, task: str) -> tuple[str, ...]:
        """Return the ids of a task's examples."""
        return self._examples[self._by_task[task].examples]

    @property
    def _by_task(self) -> dict[str, _Scored]:
        if self._lists is None:
            try:
                self._lists = _SCORED(self._text)
            except UNREADABLE as error:
                raise _unreadable("Scores in the ledger", error) from error
        return self._lists


def _unreadable(what: str, error: Exception) -> StudyError:
    return StudyError(
        f"{what} cannot be read, although their checksum is right: {error!r:.200}. "
        "No evomerge wrote them so; restore the ledger from a copy."
    )


def ids_of(scores: Mapping[str, Scores], task: str) -> tuple[str, ...]:
    """Return the ids of a task's examples, without decoding stored scores."""
    return scores.ids_of(task) if isinstance(scores, StoredScores) else scores[task].example_ids


def same_examples(a: Mapping[str, Scores], b: Mapping[str, Scores]) -> bool:
    """Return whether the tasks of `a` have the same examples in `b`, without decoding stored scores."""
    if isinstance(a, StoredScores) and isinstance(b, StoredScores) and a.has_lists_of(b):
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
