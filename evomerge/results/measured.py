"""What a search has measured, seen by an objective that is no mean: the front of a Pareto search, or the best."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from evomerge.objective import FloatArray, NoReference, Objective
from evomerge.statistics import pareto
from evomerge.study import Entry

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

    def best(self, *, searched: bool = False) -> Entry | None:
        """The merge with the smallest loss against the best parents; None while that cannot be told.

        searched: whether only candidates count, and no baseline.
        """
        merges = self._searched if searched else [*self._searched, *self._baselines]
        if not len(self._parents) or not merges:
            return None
        try:
            losses = [self._objective.against(row, self._parents.min(axis=0))[0] for row in self._by_task(merges)]
        except NoReference:
            return None
        return merges[int(np.argmin(losses))]

    def gains(self, entry: Entry) -> dict[str, float]:
        """By task, how far a candidate is ahead of the best parent on it."""
        ahead = self._parents.min(axis=0) - self._by_task([entry])[0]
        return {task: float(gain) for task, gain in zip(self._objective.weights, ahead, strict=True)}

    def decisive(self, entry: Entry) -> dict[str, float]:
        """`Objective.decisive` of a trial."""
        reference = self._parents.min(axis=0) if len(self._parents) else None
        return self._objective.decisive(self._by_task([entry])[0], reference)

    def _by_task(self, entries: Sequence[Entry]) -> FloatArray:
        """(n_entries, n_tasks)."""
        if self._objective.kind == "mean":  # one loss is recorded, and limits are on every task
            rows = [self._objective.by_task(entry.outcome.scores) for entry in entries if entry.outcome is not None]
        else:
            rows = [np.array(entry.losses) for entry in entries]
        return np.array(rows).reshape(len(rows), len(self._objective.weights))

    def _hypervolume(self, count: int) -> float | None:
        if not len(self._parents):
            return None
        differs = pareto.differing(np.concatenate([self._losses, self._parents]))
        if not differs.any():
            return 0.0
        return pareto.hypervolume(self._losses[:count, differs], self._parents[:, differs].max(axis=0))
