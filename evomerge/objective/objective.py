"""Conversion of scores to losses, the one place where a sign flips: optimizers minimize, scores are maximized."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from evaluators.base import Scores
from evomerge.objective.floor import Floor

FloatArray = NDArray[np.float64]

Kind = Literal["mean", "pareto", "chebyshev", "retention", "borda"]


class NonFiniteScore(ValueError):
    """A task with an example that has no finite score: the candidate failed, whatever the other tasks say."""


class NoReference(ValueError):
    """Losses that are relative to the parents, and no parent to compare with."""


@dataclass(frozen=True)
class Objective:
    """The objective of a search.

    weights: task -> weight, in the order of the search file; in a Pareto search, how much it is preferred.
    lower_is_better: tasks such as perplexity. whole_model: tasks with one value per model instead of examples.
    kind: `mean`, the weighted mean of the tasks; `pareto`, every task by itself; the worst task, measured from the best
    parent on it: `chebyshev` in weighted scores (augmented; Steuer and Choo, 1983,
    https://doi.org/10.1007/BF02591870), `retention` as the share of the parent's score that is lost; or `borda`, the
    weighted mean over the tasks of the share of parents and baselines that a merge beats (see `borda.py`).
    keep: task -> how far a merge may fall below the best parent on it, by its metric. smooth: task -> name of the
    smooth score that stands for its metric on the search split; `lower_is_better` is about this score.
    """

    weights: Mapping[str, float]
    lower_is_better: frozenset[str] = frozenset()
    kind: Kind = "mean"
    keep: Mapping[str, Floor] = field(default_factory=dict)
    whole_model: frozenset[str] = frozenset()
    smooth: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.weights or min(self.weights.values()) < 0 or sum(self.weights.values()) <= 0:
            raise ValueError(f"Task weights must be at least 0 and not all 0; they are {dict(self.weights)}.")

    def on(self, split: str) -> "Objective":
        """The objective on a split: smooth scores count on the search split only, the tasks' metrics on the others."""
        if split == "search" or not self.smooth:
            return self
        return replace(self, lower_is_better=self.lower_is_better - self.smooth.keys(), smooth={})

    @property
    def by_metric(self) -> "Objective":
        """The objective over the tasks' metrics."""
        return self.on("report")

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
        return self.kind in ("chebyshev", "retention", "borda") or bool(self.keep)

    @property
    def needs_baselines(self) -> bool:
        """Whether it can be told nothing before those of the other baselines are known, either."""
        return self.kind == "borda"

    def losses(self, scores: Mapping[str, Scores]) -> FloatArray:
        """Losses as they are recorded: (1,) for `mean`, else one per task. Raises NonFiniteScore."""
        by_task = self.by_task(scores)
        return np.array([by_task @ self.shares]) if self.kind == "mean" else by_task

    def by_task(self, scores: Mapping[str, Scores]) -> FloatArray:
        """The loss on every task, (n_tasks,), whatever the kind. Raises NonFiniteScore."""
        means = self.means(scores)
        return np.array([-self.sign(task) * means[task] for task in self.weights])

    def metric_losses(self, scores: Mapping[str, Scores]) -> FloatArray:
        """The loss on every task by its metric, (n_tasks,), on whichever split. Raises NonFiniteScore."""
        return self.by_metric.by_task({task: found.by_metric for task, found in scores.items()})

    def asked(self, task: str) -> str:
        """Format what `keep` asks of a task: `-0.01` (`+2` if less is better), `98%` or `flips 1%`."""
        return self.keep[task].text(self.by_metric.sign(task))

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
            if task not in scores or not scores[task].is_complete:
                values = scores[task].values if task in scores else np.empty(0)
                finite = int(np.isfinite(values).sum())
                raise NonFiniteScore(f"Task {task!r} gave a finite score to {finite} of {len(values)} examples.")
            means[task] = scores[task].mean
        return means

    def examples(self, scores: Mapping[str, Scores]) -> tuple[FloatArray, ...]:
        """Per task, every example's loss, (n_examples,); their mean is the task's loss."""
        return tuple(-self.sign(task) * scores[task].values for task in self.weights)

    @cached_property
    def shares(self) -> FloatArray:
        """The weights scaled to sum 1, in task order."""
        shares: FloatArray = np.array(list(self.weights.values()), dtype=np.float64)
        shares /= shares.sum()
        shares.flags.writeable = False
        return shares

    def limits_flips(self, task: str) -> bool:
        """Whether `keep` limits the answers of the best parent that a merge loses on a task, not its mean."""
        return task in self.keep and self.keep[task].unit == "flips"

    def unit(self, task: str) -> str:
        """The smooth score of a task for people, `bits per byte`; empty for one that counts by its metric."""
        return self.smooth.get(task, "").replace("_", " ")

    def sign(self, task: str) -> float:
        """1 where a larger score is better, else -1."""
        return -1.0 if task in self.lower_is_better else 1.0
