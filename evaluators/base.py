"""The evaluator contract: from a merged model to Scores, one value per example.

Shapes: n_examples examples of a task in a fixed order, n_choices answers of one example.
"""

import hashlib
import re
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

SPLITS = ("search", "select", "report")

#: No example has a reference besides those of the evaluator itself.
NO_REFERENCES: Mapping[str, str] = MappingProxyType({})

_COPY = re.compile(r"([0-9a-f]{16})#\d+")


class EvaluatorError(ValueError):
    """An evaluator that cannot be built, or a model or example that it cannot score."""

    exit_code = 2  # of a command that ends with this error


class MergedModel(Protocol):
    """A candidate: its coefficients and its resident weights."""

    @property
    def coefficients(self) -> Mapping[str, FloatArray]:
        """Parameter name -> values, (n_groups, n_inputs) or (n_groups, 1)."""

    @property
    def tensors(self) -> Mapping[str, Any]:
        """Tensor name -> the torch tensor with the merged weights; read-only."""


class LanguageModel(MergedModel, Protocol):
    """A candidate that can read and write text."""

    @property
    def network(self) -> Any:
        """The transformers model, in evaluation mode, on its device."""

    @property
    def tokenizer(self) -> Any:
        """The transformers tokenizer."""


@dataclass(frozen=True, eq=False, repr=False)
class Scores:
    """Scores of one model on one task, per example.

    Attributes:
        example_ids: Ids of the scored examples, in the evaluator's order, (n_examples,).
        values: Score of each example, float64, (n_examples,); NaN = not scored, never 0.
        choices: Log-likelihoods of each example's answers in nats, ragged: n_examples arrays of (n_choices,), or None.
        truncated: Number of generations cut by the length limit; None if nothing is generated.
        accepted: The text that the model generated for each example that got full marks, with the stop string or end
            token that ended it, as `Evaluator.loss` takes it for a reference; None for the other examples, and None
            instead of the tuple for tasks that generate no answers.
        metric: Each example's value by the task's metric, larger is better, float64, (n_examples,), where `values` are
            a smooth score for the search; None where `values` are the metric.

    Raises:
        EvaluatorError: The number of values or texts differs from the number of ids, or an id is repeated.
    """

    example_ids: tuple[str, ...]
    values: FloatArray
    choices: tuple[FloatArray, ...] | None = None
    truncated: int | None = None
    accepted: tuple[str | None, ...] | None = None
    metric: FloatArray | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", self._checked(self.values))
        if self.metric is not None:
            object.__setattr__(self, "metric", self._checked(self.metric))
        if len(set(self.example_ids)) != len(self.example_ids):
            raise EvaluatorError("Scores need distinct example ids; at least one is repeated.")
        if self.accepted is not None and len(self.accepted) != len(self.example_ids):
            raise EvaluatorError(
                f"Scores need one accepted text or None per example, {len(self.example_ids)}; got {len(self.accepted)}."
            )

    def _checked(self, values: FloatArray) -> FloatArray:
        """Return values as a read-only array of its own. Raises EvaluatorError for another number of them."""
        own = np.array(values, dtype=np.float64)
        if own.shape != (len(self.example_ids),):
            raise EvaluatorError(
                f"Scores need one value per example, {len(self.example_ids)}; they have shape {own.shape}."
            )
        own.flags.writeable = False
        return own

    @property
    def by_metric(self) -> "Scores":
        """The scores by the task's metric, as the select and report splits have them."""
        return self if self.metric is None else replace(self, values=self.metric, metric=None)

    def __repr__(self) -> str:
        return f"Scores({len(self.example_ids)} examples, mean={self.mean:.4g})"

    @cached_property
    def is_complete(self) -> bool:
        """Whether every example has a finite value, and there is one."""
        return len(self.values) > 0 and bool(np.isfinite(self.values).all())

    @cached_property
    def is_share(self) -> bool:
        """Whether every example has a value from 0 to 1."""
        return bool(((self.values >= 0) & (self.values <= 1)).all())

    @cached_property
    def mean(self) -> float:
        """Mean over the scored examples; NaN if there are none."""
        scored = self.values[~np.isnan(self.values)]
        return float(scored.mean()) if len(scored) else float("nan")


@dataclass(frozen=True)
class Preview:
    """One example as the model sees it, for display.

    Attributes:
        prompt: The text that is read.
        continuations: The texts that are scored after it or, if `generated`, the accepted answers.
        right: Positions of the right ones among scored texts; empty if none is marked.
        generated: Whether the model generates its answer.
    """

    prompt: str
    continuations: tuple[str, ...] = ()
    right: tuple[int, ...] = ()
    generated: bool = False


class Evaluator(ABC):
    """Scores models on one task. Built once per worker and used for every candidate.

    Everything that does not depend on the weights (prompts, tokens, batches) is prepared once and kept. Plug-ins
    implement `example_ids` and `score`.

    Example:
        >>> class NegativeWeights(Evaluator):
        ...     "Whether each tensor has a negative weight."
        ...     higher_is_better = False
        ...     needs_language_model = False
        ...     names = ("embed.weight", "head.weight")
        ...
        ...     @property
        ...     def example_ids(self):
        ...         return content_ids(self.names)
        ...
        ...     def score(self, model, ids=None):
        ...         rows = self.rows(ids)
        ...         values = [float((model.tensors[self.names[row]] < 0).any()) for row in rows]
        ...         return Scores(tuple(self.example_ids[row] for row in rows), values)
        >>> from types import SimpleNamespace
        >>> weights = {"embed.weight": np.array([1.0, -2.0]), "head.weight": np.array([0.5])}
        >>> NegativeWeights().score(SimpleNamespace(tensors=weights)).mean
        0.5
    """

    #: Whether larger scores are better.
    higher_is_better: bool = True
    #: Name of the smooth score that `Scores.values` are where `Scores.metric` is set, such as "bits_per_byte". The
    #: search follows it; constraints, selection and report use the metric.
    smooth_score: str | None = None
    #: Whether `score` needs a LanguageModel (network and tokenizer) rather than only the merged tensors.
    needs_language_model: bool = True
    #: Whether `score` needs a network without a tokenizer, e.g. for images; `preflight` is then called with one too.
    needs_network: bool = False
    #: Whether `score` needs the merged weights themselves, e.g. for a forward pass, and not only coefficients and the
    #: texts that a network or another backend writes (`_generation.Generator`).
    needs_weights: bool = True
    #: Whether the whole model gets a single value (e.g. its size): one example, the same on every split.
    whole_model: bool = False
    #: Whether equal weights always get equal scores; equal candidates are then scored only once.
    deterministic: bool = True

    @property
    @abstractmethod
    def example_ids(self) -> tuple[str, ...]:
        """One id per example, in a fixed order, from `content_ids`."""

    @abstractmethod
    def score(self, model: Any, ids: Sequence[str] | None = None) -> Scores:
        """Score a model.

        Args:
            model: A MergedModel, or a LanguageModel if `needs_language_model`.
            ids: Ids of the examples to score, in any order; None for all of them.

        Returns:
            The scores, in the evaluator's order.

        Raises:
            EvaluatorError: An id is unknown or repeated, or `ids` is empty.
        """

    @property
    def experts(self) -> tuple[str, ...]:
        """Names of the models of the search, or "base", whose outputs `score` and `loss` compare with; see `learn`."""
        return ()

    def learn(self, expert: str, model: Any, ids: Sequence[str]) -> None:
        """Keep the outputs of one of `experts`; called for each of them before `score` or `loss` needs its examples.

        Args:
            expert: One of `experts`.
            model: That model, as in `score`, with the merge's tokenizer. Its weights are gone afterwards.
            ids: Ids of the examples, in any order.

        Raises:
            EvaluatorError: The model is none of `experts`, or `ids` is not as `score` expects.
        """
        if expert not in self.experts:
            raise EvaluatorError(
                f"{type(self).__name__} does not learn from {expert!r}; it compares with "
                f"{', '.join(self.experts) or 'no other model'}."
            )
        self._learn(expert, model, self.rows(ids))

    def check_expert(self, expert: str, network: Any) -> None:  # noqa: B027 - for evaluators that need more
        """Check one of `experts` before a search, see `learn`.

        Args:
            expert: Its name.
            network: Its network, on the meta device, without weights.

        Raises:
            EvaluatorError: The evaluator cannot learn from it.
        """

    def _learn(self, expert: str, model: Any, rows: Sequence[int]) -> None:
        """Keep the outputs of an expert on the examples at positions `rows`; for evaluators that have `experts`."""
        raise EvaluatorError(
            f"{type(self).__name__} names {expert!r} among its `experts` and does not implement `_learn` "
            f"({len(rows)} examples of {type(model).__name__})."
        )

    def loss(self, model: Any, ids: Sequence[str], references: Mapping[str, str] = NO_REFERENCES) -> Any:  # noqa: ARG002
        """Return a differentiable loss of each example, for gradients of the coefficients.

        It is `(1 - p) / 2 - log(p) / (2 T)`, where p is the probability of the right answer and T its number of tokens
        (1 among choices): the mean of the expected error and of the negative log-likelihood per token. Metrics that are
        negative log-likelihoods are their own loss.

        Args:
            model: As in `score`. Gradients flow into those parameters of the network that require them.
            ids: Ids of the examples, in any order; all of them among `loss_ids(references)`.
            references: Example id -> text that a model generated and the metric accepted (`Scores.accepted`), the
                target of a generated answer instead of the file's; other ids and other tasks ignore it.

        Returns:
            A torch tensor, float32, (n_ids,), in the evaluator's order; smaller is better whatever
            `higher_is_better` is.

        Raises:
            EvaluatorError: The evaluator or one of the examples has no loss, or `ids` is not as `score` expects.
        """
        raise EvaluatorError(self.why_no_loss() or f"{type(self).__name__} does not implement `loss`.")

    def why_no_loss(self) -> str | None:
        """Return why `loss` cannot be used for this task and what to do, as one sentence; None if it can."""
        return (
            f"{type(self).__name__} has no differentiable loss: its score does not follow from the probability of a "
            "right answer. Use an optimizer that needs no gradients for this task."
        )

    def loss_ids(self, references: Mapping[str, str] = NO_REFERENCES) -> tuple[str, ...]:  # noqa: ARG002
        """Return the ids of the examples that have a loss, in the evaluator's order.

        A generated answer has one if a text is known that the metric accepts: a reference, or the file's answer as it
        is. No tokenizer is needed.
        """
        return self.example_ids if self.why_no_loss() is None else ()

    def preflight(self, model: Any) -> tuple[str, ...]:  # noqa: ARG002 - for evaluators that read or write text
        """Tokenize ahead of scoring and return warnings, e.g. about truncated prompts.

        Args:
            model: Provides `network`, which may be on the meta device, without weights, and if `needs_language_model`
                `tokenizer`.

        Returns:
            Warnings to show the user, one sentence each.

        Raises:
            EvaluatorError: The network, the examples or the options are incompatible.
        """
        return ()

    def preview(self, row: int) -> Preview | None:  # noqa: ARG002 - for evaluators that read or write text
        """Return the example at position `row` of `example_ids` for display; None if the evaluator has no text."""
        return None

    def rows(self, ids: Sequence[str] | None) -> list[int]:
        """Return the positions of examples in `example_ids`, in ascending order.

        Args:
            ids: Ids in any order; None for all of them.

        Raises:
            EvaluatorError: An id is unknown or repeated, or `ids` is empty.
        """
        if ids is None:
            return list(range(len(self.example_ids)))
        position = {example_id: row for row, example_id in enumerate(self.example_ids)}
        unknown = [example_id for example_id in ids if example_id not in position]
        if unknown:
            raise EvaluatorError(
                f"{type(self).__name__} has no example {unknown[0]!r} ({len(unknown)} unknown ids in total); "
                f"its {len(position)} ids are in `example_ids`."
            )
        if not ids or len(set(ids)) != len(ids):
            raise EvaluatorError(
                f"{type(self).__name__} got {len(ids)} ids, {len(set(ids))} of them distinct; "
                "expected at least one, without repetition, or None for all."
            )
        return sorted(position[example_id] for example_id in ids)

    def loss_rows(self, ids: Sequence[str], references: Mapping[str, str]) -> list[int]:
        """Return the positions of examples whose loss is asked for, in ascending order.

        Raises:
            EvaluatorError: As for `rows`; or one of the examples has no loss.
        """
        why = self.why_no_loss()
        if why is not None:
            raise EvaluatorError(why)
        rows = self.rows(ids)
        known = set(self.loss_ids(references))
        missing = [self.example_ids[row] for row in rows if self.example_ids[row] not in known]
        if missing:
            raise EvaluatorError(
                f"{len(missing)} of {len(rows)} examples have no loss, such as {missing[0]!r}: no answer is known that "
                "the metric accepts; use those of `loss_ids`, or add references."
            )
        return rows


def content_ids(contents: Sequence[str]) -> tuple[str, ...]:
    """Return ids derived from the examples' text: 16 hex digits, with `#2`, `#3` appended for repeated content.

    Case and white space are ignored, so duplicate prompts stay in the same split.
    """
    seen: dict[str, int] = {}
    ids = []
    for content in contents:
        key = hashlib.sha256(" ".join(content.lower().split()).encode()).hexdigest()[:16]
        seen[key] = seen.get(key, 0) + 1
        ids.append(key if seen[key] == 1 else f"{key}#{seen[key]}")
    return tuple(ids)


def content_of(example_id: str) -> str:
    """Return an id without the copy number that `content_ids` appends; other ids are returned unchanged."""
    copy = _COPY.fullmatch(example_id)
    return copy[1] if copy else example_id


def split_of(example_id: str, fractions: Sequence[float], salt: str = "") -> str:
    """Return the split of an example ("search", "select" or "report"), by a hash of its content.

    An example never changes its split when others are added.

    Args:
        example_id: Id of the example.
        fractions: Shares of SPLITS, summing to 1.
        salt: Key of an alternative split.
    """
    key = example_id.split("#")[0]
    draw = int.from_bytes(hashlib.sha256(f"{salt}:{key}".encode()).digest()[:8], "big") / 2**64
    return SPLITS[min(bisect_right(list(accumulate(fractions)), draw), len(SPLITS) - 1)]
