"""From scores to losses: the one place where a sign flips. Optimizers minimise; people read scores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evaluators.base import Scores

FloatArray = NDArray[np.float64]


class NonFiniteScore(ValueError):
    """A task with an example that has no finite score: the candidate failed, whatever the other tasks say."""


@dataclass(frozen=True)
class Objective:
    """What a search improves: a weighted mean of the tasks, or every task by itself (`pareto`).

    weights: task -> weight, in the order of the search file. lower_is_better: tasks such as perplexity.
    """

    weights: Mapping[str, float]
    lower_is_better: frozenset[str] = frozenset()
    pareto: bool = False

    def __post_init__(self) -> None:
        if not self.weights or min(self.weights.values()) < 0 or sum(self.weights.values()) <= 0:
            raise ValueError(f"Task weights must be at least 0 and not all 0; they are {dict(self.weights)}.")

    @property
    def n_objectives(self) -> int:
        """1, or the number of tasks."""
        return len(self.weights) if self.pareto else 1

    def losses(self, scores: Mapping[str, Scores]) -> FloatArray:
        """Losses to minimise, (n_objectives,). Raises NonFiniteScore."""
        means = self.means(scores)
        signed = np.array([-self._sign(task) * means[task] for task in self.weights])
        return signed if self.pareto else np.array([signed @ self.shares])

    def score(self, means: Mapping[str, float]) -> float:
        """The weighted mean of task means as people read it: larger is better."""
        return float(sum(s * self._sign(t) * means[t] for s, t in zip(self.shares, self.weights, strict=True)))

    @staticmethod
    def score_of(losses: Sequence[float]) -> float:
        """The same score from recorded losses; with several objectives all tasks weigh the same."""
        return -float(np.mean(losses))

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

    def contributions(self, scores: Mapping[str, Scores]) -> dict[str, FloatArray]:
        """Per task, every example's share of the score: the task means of these sum to `score`."""
        return {
            task: share * self._sign(task) * scores[task].values
            for share, task in zip(self.shares, self.weights, strict=True)
        }

    @property
    def shares(self) -> FloatArray:
        """The weights scaled to sum 1, in task order."""
        shares: FloatArray = np.array(list(self.weights.values()), dtype=np.float64)
        shares /= shares.sum()
        return shares

    def _sign(self, task: str) -> float:
        return -1.0 if task in self.lower_is_better else 1.0
