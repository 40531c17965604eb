"""How the models scored on one split compare by the study's objective."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

import numpy as np

from evaluators.base import Scores
from evomerge.errors import EvomergeError
from evomerge.objective import FloatArray, NoReference, Objective
from evomerge.objective.score import display_score
from evomerge.statistics import pareto
from evomerge.study import Entry, Study
from evomerge.trial import Origin

#: Differences of means that are no differences.
ROUNDING = 1e-9


class SelectionError(EvomergeError):
    """A study in which nothing can be selected yet."""


class Ranking:
    """The scored trials of a split, and which of them is better.

    entries: in telling order, without the canary and without what was scored a second time. reference: the best
    parent's loss on every task, (n_tasks,); None without parents. yardstick: what a preference is measured with.
    """

    def __init__(self, study: Study, objective: Objective, split: str) -> None:
        self.objective = objective
        self.entries = comparable(study, split)
        self.display_score = display_score(objective, [scores_of(entry) for entry in self.entries])
        self._losses = {e.trial.number: objective.by_task(scores_of(e)) for e in self.entries}
        self.reference = best_of_each([e for e in self.entries if e.trial.origin.is_parent], self._losses)
        if objective.kind == "retention" and self.reference is not None and split != "search":
            # A parent that scores nothing on these few examples is measured by what it scored on the others.
            earlier = Ranking(study, objective, "search").reference
            if earlier is not None:
                self.reference = np.where(self.reference == 0, earlier, self.reference)

    def losses(self, entries: Iterable[Entry]) -> FloatArray:
        """Losses by task, (n_entries, n_tasks)."""
        return np.array([self._losses[entry.trial.number] for entry in entries])

    def front(self, entries: list[Entry]) -> list[Entry]:
        """Those of `entries` that no other of them beats."""
        kept = pareto.non_dominated(self.losses(entries)) if entries else ()
        return [entry for entry, keep in zip(entries, kept, strict=True) if keep]

    def key(self, entry: Entry) -> tuple[float, float, int]:
        """To sort by, best first: what keeps enough of the parents, then the objective, then the earlier trial."""
        return self.excess(entry), self._loss(entry), entry.trial.number

    def best_simple_baseline(self, among: Collection[str] | None = None) -> Entry | None:
        """The best merge that was not searched (uniform average, task arithmetic), of these labels or of all."""
        baselines = [entry for entry in self.entries if entry.trial.is_simple_baseline]
        found = [entry for entry in baselines if among is None or entry.trial.label in among]
        return min(found, key=self.key, default=None)

    def decisive(self, entry: Entry) -> dict[str, float]:
        """`Objective.decisive` of an entry."""
        return self.objective.decisive(self._losses[entry.trial.number], self.reference)

    def excess(self, entry: Entry) -> float:
        """By how much an entry breaks `keep`, over all tasks; 0 where it keeps what was asked."""
        if self.reference is None:
            return 0.0
        beyond = self._losses[entry.trial.number] - self.objective.limits(self.reference)
        spans = [abs(best - worst) or 1.0 for worst, best in self.display_score.scale.values()] or [1.0]
        return float((np.where(beyond > ROUNDING, beyond, 0.0) / np.array(spans)).sum())

    def _loss(self, entry: Entry) -> float:
        if self.objective.pareto:
            return -self.display_score.score(scores_of(entry))
        losses = self._losses[entry.trial.number]
        try:
            if self.reference is not None and self.objective.needs_parents:
                return float(self.objective.against(losses, self.reference)[0])
        except NoReference:
            pass  # no share of nothing: what is left to compare by is the mean
        return float(replace(self.objective, kind="mean").against(losses, losses)[0])


def comparable(study: Study, split: str) -> list[Entry]:
    """The scored trials of a split, in telling order, without the canary and without what was scored a second time."""
    return [entry for entry in study.told if _is_comparable(entry, split)]


def best_of_each(entries: Iterable[Entry], losses: Mapping[int, FloatArray]) -> FloatArray | None:
    """The smallest loss of these entries on every task, (n_tasks,); None without entries."""
    found = [losses[entry.trial.number] for entry in entries]
    return np.min(found, axis=0) if found else None


def scores_of(entry: Entry) -> dict[str, Scores]:
    """Scores by task. Raises SelectionError for a trial without any."""
    if entry.outcome is None:
        raise SelectionError(f"Trial {entry.trial.number} has no scores.")
    return dict(entry.outcome.scores)


def _is_comparable(entry: Entry, split: str) -> bool:
    scored_here = entry.losses is not None and entry.trial.split == split
    return scored_here and entry.trial.origin not in (Origin.CANARY, Origin.RERUN)
