"""From scores to losses: the one place where a sign flips. Optimizers minimise; people read scores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from evaluators.base import Scores

FloatArray = NDArray[np.float64]

Kind = Literal["mean", "pareto", "chebyshev", "retention"]


class NonFiniteScore(ValueError):
    """A task with an example that has no finite score: the candidate failed, whatever the other tasks say."""


class NoReference(ValueError):
    """Losses that are relative to the parents, and no parent to compare with."""


@dataclass(frozen=True)
class Share:
    """How much of the best parent's score a merge has to keep: 0.98 of it, or 1.02 times it where less is better."""

    kept: float


#: How far a task may fall behind the best parent: so much in its own unit, or to a share of the parent's score.
Fall = float | Share


def hundredths(amount: float) -> float:
    """Points or a percentage, as people write them, as a number: 1 point is 0.01."""
    return amount / 100


def fall_data(fall: Fall) -> float | str:
    """As a search file says it: 0.01, or `98%`."""
    return f"{100 * fall.kept:.12g}%" if isinstance(fall, Share) else fall


def allowed(fall: Fall, best: float) -> float:
    """How far a task may fall, in its unit; best: the best parent's score or loss on it."""
    return (1 - fall.kept) * abs(best) if isinstance(fall, Share) else fall


@dataclass(frozen=True)
class Objective:
    """What a search improves.

    weights: task -> weight, in the order of the search file; in a Pareto search, how much it is preferred.
    lower_is_better: tasks such as perplexity. whole_model: tasks with one value per model instead of examples.
    kind: `mean`, the weighted mean of the tasks; `pareto`, every task by itself; or the worst task, measured from the
    best parent on it: `chebyshev` in weighted scores (augmented; Steuer and Choo, 1983,
    https://doi.org/10.1007/BF02591870), `retention` as the share of the parent's score that is lost.
    keep: task -> how far a merge may fall behind the best parent on it.
    """

    weights: Mapping[str, float]
    lower_is_better: frozenset[str] = frozenset()
    kind: Kind = "mean"
    keep: Mapping[str, Fall] = field(default_factory=dict)
    whole_model: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if not self.weights or min(self.weights.values()) < 0 or sum(self.weights.values()) <= 0:
            raise ValueError(f"Task weights must be at least 0 and not all 0; they are {dict(self.weights)}.")

    @property
    def pareto(self) -> bool:
        """Whether every task is an objective of its own."""
        return self.kind == "pareto"

    @property
    def n_objectives(self) -> int:
        """How many losses an optimizer sees: 1, or the number of tasks."""
        return len(self.weights) if self.pareto else 1

    @property
    def needs_parents(self) -> bool:
        """Whether an optimizer can be told nothing before the parents' losses are known."""
        return self.kind in ("chebyshev", "retention") or bool(self.keep)

    def losses(self, scores: Mapping[str, Scores]) -> FloatArray:
        """Losses as they are recorded: (1,) for `mean`, else one per task. Raises NonFiniteScore."""
        by_task = self.by_task(scores)
        return np.array([by_task @ self.shares]) if self.kind == "mean" else by_task

    def by_task(self, scores: Mapping[str, Scores]) -> FloatArray:
        """The loss on every task, (n_tasks,), whatever the kind. Raises NonFiniteScore."""
        means = self.means(scores)
        return np.array([-self.sign(task) * means[task] for task in self.weights])

    def asked(self, task: str) -> str:
        """What `keep` asks of a task, for people: `-0.01` from the best parent, `+2` where less is better, or `98%`."""
        fall = self.keep[task]
        return str(fall_data(fall)) if isinstance(fall, Share) else f"{-self.sign(task) * fall:+g}" if fall else "0"

    def score_of(self, losses: Sequence[float] | FloatArray) -> float:
        """The weighted mean of the tasks as people read it, larger is better, from recorded losses."""
        return -float(losses[0]) if self.kind == "mean" else -float(np.asarray(losses) @ self.shares)

    def as_scores(self, by_task: FloatArray) -> dict[str, float]:
        """Task means as people read them, from losses by task (n_tasks,)."""
        return {task: float(-self.sign(task) * loss) for task, loss in zip(self.weights, by_task, strict=True)}

    def means(self, scores: Mapping[str, Scores]) -> dict[str, float]:
        """Mean of every task. Raises NonFiniteScore for a task that lacks the value of any asked example.

        A mean over the remaining examples would compare candidates on different questions.
        """
        means = {}
        for task in self.weights:
            values = scores[task].values if task in scores else np.empty(0)
            finite = int(np.isfinite(values).sum())
            if finite < len(values) or not finite:
                raise NonFiniteScore(f"Task {task!r} gave a finite score to {finite} of {len(values)} examples.")
            means[task] = float(values.mean())
        return means

    def examples(self, scores: Mapping[str, Scores]) -> tuple[FloatArray, ...]:
        """Per task, every example's loss, (n_examples,); their mean is the task's loss."""
        return tuple(-self.sign(task) * scores[task].values for task in self.weights)

    @property
    def shares(self) -> FloatArray:
        """The weights scaled to sum 1, in task order."""
        shares: FloatArray = np.array(list(self.weights.values()), dtype=np.float64)
        shares /= shares.sum()
        return shares

    def sign(self, task: str) -> float:
        """1 where a larger score is better, else -1."""
        return -1.0 if task in self.lower_is_better else 1.0
