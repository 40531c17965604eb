"""What an evaluator takes (a merged model) and gives (Scores: one value per example), and its contract.

Vocabulary of shapes: n_examples examples of a task in a fixed order, n_choices answers of one example.
"""

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

SPLITS = ("search", "select", "report")

_COPY = re.compile(r"([0-9a-f]{16})#\d+")


class EvaluatorError(ValueError):
    """An evaluator that cannot be built, or a model or example that it cannot score."""

    exit_code = 2  # of the command that it ends


class MergedModel(Protocol):
    """A candidate: its coefficients and its resident weights."""

    @property
    def coefficients(self) -> Mapping[str, FloatArray]:
        """Parameter name -> (n_groups, n_inputs) or (n_groups, 1)."""

    @property
    def tensors(self) -> Mapping[str, Any]:
        """Tensor name -> the torch tensor that holds the merged weights; not to be written."""


class LanguageModel(MergedModel, Protocol):
    """A candidate that can read and write text."""

    @property
    def network(self) -> Any:
        """The transformers model, in evaluation mode, on its device."""

    @property
    def tokenizer(self) -> Any:
        """The transformers tokenizer."""


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores of one model on one task, example by example.

    example_ids: in the evaluator's order. values: float64 (n_examples,); NaN = not scored, never 0.
    choices: log-likelihoods of each example's answers, ragged (n_examples arrays of (n_choices,)), or None.
    truncated: how many generations were cut by the length limit; None where nothing is generated.
    """

    example_ids: tuple[str, ...]
    values: FloatArray
    choices: tuple[FloatArray, ...] | None = None
    truncated: int | None = None

    def __post_init__(self) -> None:
        values = np.array(self.values, dtype=np.float64)
        if values.shape != (len(self.example_ids),):
            raise EvaluatorError(
                f"Scores need one value per example, {len(self.example_ids)}; they have shape {values.shape}."
            )
        if len(set(self.example_ids)) != len(self.example_ids):
            raise EvaluatorError("Scores name an example twice.")
        values.flags.writeable = False
        object.__setattr__(self, "values", values)

    @property
    def mean(self) -> float:
        """Mean over the scored examples; NaN when there are none."""
        scored = self.values[~np.isnan(self.values)]
        return float(scored.mean()) if len(scored) else float("nan")


@dataclass(frozen=True)
class Preview:
    """One example as a model meets it, to be shown to people.

    prompt: the text that is read. continuations: the texts that are scored after it or, if `generated`, accepted as
    the model's own. right: positions of the right ones among scored texts; empty where none is marked.
    """

    prompt: str
    continuations: tuple[str, ...] = ()
    right: tuple[int, ...] = ()
    generated: bool = False


class Evaluator(ABC):
    """Scores models on one task. Built once per worker and used for every candidate.

    Whatever does not depend on the weights (prompts, tokens, batches) is prepared once and kept.
    """

    #: Whether a larger score is a better one.
    higher_is_better: bool = True
    #: Whether it reads or writes text: whether `score` needs a LanguageModel with its tokenizer.
    needs_language_model: bool = True
    #: Whether it gives one value for a whole model (its size): one example, the same on every split.
    whole_model: bool = False
    #: Whether the same weights always get the same scores. Equal candidates are scored once then.
    deterministic: bool = True

    @property
    @abstractmethod
    def example_ids(self) -> tuple[str, ...]:
        """One id per example, in a fixed order, made by `content_ids`."""

    @abstractmethod
    def score(self, model: Any, ids: Sequence[str] | None = None) -> Scores:
        """Score `model` (a LanguageModel unless the evaluator says otherwise) on `ids`, or on all examples.

        The scores are in the evaluator's order, whatever the order of `ids`.
        Raises EvaluatorError for an unknown or repeated id and for an empty list.
        """

    def rehearse(self, model: Any) -> tuple[str, ...]:  # noqa: ARG002 - for evaluators that read or write text
        """Prepare what depends on the tokenizer, and say what people should know of it; nothing is scored.

        model: has `tokenizer` and `network`, which may be on the meta device, without weights. Raises EvaluatorError
        for a network, examples or options that do not fit.
        """
        return ()

    def preview(self, row: int) -> Preview | None:  # noqa: ARG002 - for evaluators that read or write text
        """The example at position `row` of `example_ids`; None for an evaluator that has no text to show."""
        return None

    def rows(self, ids: Sequence[str] | None) -> list[int]:
        """Positions of `ids` in `example_ids`, ascending; all of them for None.

        Raises EvaluatorError for an unknown or repeated id and for an empty list.
        """
        if ids is None:
            return list(range(len(self.example_ids)))
        position = {example_id: row for row, example_id in enumerate(self.example_ids)}
        unknown = [example_id for example_id in ids if example_id not in position]
        if unknown:
            raise EvaluatorError(
                f"{type(self).__name__} has no example {unknown[0]!r} ({len(unknown)} unknown ids in all); "
                f"its {len(position)} ids are in `example_ids`."
            )
        if not ids or len(set(ids)) != len(ids):
            raise EvaluatorError(
                f"{type(self).__name__} was asked for {len(ids)} ids, {len(set(ids))} of them different; "
                "name at least one, each once, or give None for all."
            )
        return sorted(position[example_id] for example_id in ids)


def content_ids(contents: Sequence[str]) -> tuple[str, ...]:
    """Ids made of the examples' own text: 16 hex digits, with `#2`, `#3` behind repeated content.

    Case and white space do not count, so the same prompt written twice stays on one side of a split.
    """
    seen: dict[str, int] = {}
    ids = []
    for content in contents:
        key = hashlib.sha256(" ".join(content.lower().split()).encode()).hexdigest()[:16]
        seen[key] = seen.get(key, 0) + 1
        ids.append(key if seen[key] == 1 else f"{key}#{seen[key]}")
    return tuple(ids)


def content_of(example_id: str) -> str:
    """The id without the number of a copy, which `content_ids` adds; ids of another form have no copies."""
    copy = _COPY.fullmatch(example_id)
    return copy[1] if copy else example_id


def split_of(example_id: str, fractions: Sequence[float], salt: str = "") -> str:
    """The split ("search", "select" or "report") of an example, by the hash of its content.

    fractions: shares of SPLITS, summing to 1. An example never changes sides when others are added.
    """
    key = example_id.split("#")[0]
    draw = int.from_bytes(hashlib.sha256(f"{salt}:{key}".encode()).digest()[:8], "big") / 2**64
    return SPLITS[min(int(np.searchsorted(np.cumsum(fractions), draw, side="right")), len(SPLITS) - 1)]
