"""What a Pareto search has measured: the front of its candidates, and its hypervolume."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from evomerge.budget import is_candidate
from evomerge.objective import FloatArray, Objective
from evomerge.results.ranking import losses_by_task
from evomerge.statistics import pareto
from evomerge.study import Entry, Study

#: At how many moments the hypervolume is told.
MOMENTS = 8


@dataclass(frozen=True)
class MeasuredFront:
    """The candidates that no other candidate and no baseline that is a merge beats on the search split, by number.

    best: task -> (number, score) of the merge that is best on it. labels: number -> label of those that are baselines.
    hypervolume: what the candidates cover beyond the worst score of the base and the parents on every task that tells
    models apart; None before they are scored.
    """

    numbers: tuple[int, ...]
    best: dict[str, tuple[int, float]]
    hypervolume: float | None
    labels: dict[int, str] = field(default_factory=dict)

    def name(self, number: int) -> str:
        """`trial 7`, or the label of a baseline."""
        return self.labels.get(number, f"trial {number}")

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        best = {
            task: {"number": number, "score": score, "name": self.name(number)}
            for task, (number, score) in self.best.items()
        }
        return {"size": len(self.numbers), "hypervolume": self.hypervolume, "best": best}


def scored_candidates(study: Study, told: int | None = None) -> list[Entry]:
    """The candidates with scores, in telling order; of the first `told` trials that were told, where it is given."""
    return [entry for entry in study.told[:told] if is_candidate(entry.trial) and entry.losses is not None]


class Measured:
    """The scored trials of the search split, baselines among them, in telling order."""

    def __init__(self, objective: Objective, scored: Sequence[Entry]) -> None:
        self._objective = objective
        self._searched = [entry for entry in scored if entry.trial.merge is None]
        self._baselines = [entry for entry in scored if entry.trial.is_simple_baseline]
        self._losses = self._by_task(self._searched)
        self._parents = self._by_task([entry for entry in scored if entry.trial.origin.is_parent])

    def front(self) -> MeasuredFront | None:
        """The front; None without a candidate."""
        if not self._searched:
            return None
        merges = [*self._searched, *self._baselines]
        losses = np.concatenate([self._losses, self._by_task(self._baselines)])
        kept = [e.trial.number for e, keep in zip(merges, pareto.non_dominated(losses), strict=True) if keep]
        rows = losses.argmin(axis=0)
        best = {
            task: (merges[row].trial.number, self._objective.as_scores(losses[row])[task])
            for task, row in zip(self._objective.weights, rows, strict=True)
        }
        labels = {entry.trial.number: entry.trial.label for entry in self._baselines}
        own = tuple(sorted(number for number in kept if number not in labels))
        return MeasuredFront(own, best, self._hypervolume(len(self._searched)), labels)

    def history(self) -> list[tuple[int, float]]:
        """(candidates, hypervolume) at up to MOMENTS moments, the last one now; empty before the parents are scored."""
        told = np.unique(np.ceil(np.linspace(0, len(self._searched), MOMENTS + 1)[1:]).astype(int))
        return [(int(n), volume) for n in told if n and (volume := self._hypervolume(int(n))) is not None]

    def _by_task(self, entries: Sequence[Entry]) -> FloatArray:
        """(n_entries, n_tasks)."""
        rows = [losses_by_task(self._objective, entry) for entry in entries]
        return np.array(rows).reshape(len(rows), len(self._objective.weights))

    def _hypervolume(self, count: int) -> float | None:
        if not len(self._parents):
            return None
        differs = pareto.differing(np.concatenate([self._losses, self._parents]))
        if not differs.any():
            return 0.0
        return pareto.hypervolume(self._losses[:count, differs], self._parents[:, differs].max(axis=0))
