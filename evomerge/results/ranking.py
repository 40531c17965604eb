"""How the models scored on one split compare by the study's objective."""

from collections.abc import Collection, Iterable
from dataclasses import replace
from functools import cached_property

import numpy as np

from evaluators.base import Scores
from evomerge.errors import EvomergeError
from evomerge.objective import FloatArray, Objective
from evomerge.objective.reference import DECIMALS, Order, Reference
from evomerge.objective.score import DisplayScore, display_score
from evomerge.statistics import pareto
from evomerge.study import Entry, Study
from evomerge.trial import Origin


class SelectionError(EvomergeError):
    """A study in which nothing can be selected yet."""


class Ranking:
    """The scored trials of a split, and which of them is better.

    entries: in telling order, without the canary and without what was scored a second time. told: only the first so
    many trials that were told, on any split; None for all of them.
    """

    def __init__(self, study: Study, objective: Objective, split: str, told: int | None = None) -> None:
        self.objective = objective
        self.entries = [entry for entry in study.told[:told] if _is_comparable(entry, split)]
        self._study, self._split = study, split
        self._losses: dict[int, FloatArray] = {}

    @cached_property
    def display_score(self) -> DisplayScore:
        """The score that is shown, over these models."""
        return display_score(self.objective, map(scores_of, self.entries))

    @cached_property
    def reference(self) -> Reference:
        """The best parent on every task.

        In a search for retention, a parent that scores nothing on these few examples is measured by the search split.
        """
        parents = [self._of(entry) for entry in self.entries if entry.trial.origin.is_parent]
        found = Reference.of(self.objective, parents, self.display_score)
        if found.problem is None or found.losses is None or self._split == "search":
            return found
        earlier = Ranking(self._study, self.objective, "search").reference.losses
        return found if earlier is None else replace(found, losses=np.where(found.losses == 0, earlier, found.losses))

    def losses(self, entries: Iterable[Entry]) -> FloatArray:
        """Losses by task, (n_entries, n_tasks)."""
        return np.array([self._of(entry) for entry in entries])

    def front(self, entries: list[Entry]) -> list[Entry]:
        """Those of `entries` that no other of them beats."""
        kept = pareto.non_dominated(self.losses(entries)) if entries else ()
        return [entry for entry, keep in zip(entries, kept, strict=True) if keep]

    def key(self, entry: Entry) -> tuple[float, float, int]:
        """To sort by, best first; of equal trials the earlier one is better."""
        return *self.order(entry), entry.trial.number

    def order(self, entry: Entry) -> Order:
        """`Reference.order` of an entry."""
        if self.objective.kind == "mean" and not self.objective.keep:  # by the loss that is recorded
            return 0.0, round((entry.losses or (0.0,))[0], DECIMALS)
        return self.reference.order(self._of(entry))

    def best(self, *, searched: bool = False) -> Entry | None:
        """The best merge; None without any. searched: whether only points of the search count, and no baseline."""
        merges = [e for e in self.entries if e.trial.merge is None or (not searched and e.trial.is_simple_baseline)]
        return min(merges, key=self.key, default=None)

    def best_simple_baseline(self, among: Collection[str] | None = None) -> Entry | None:
        """The best merge that was not searched (uniform average, task arithmetic), of these labels or of all."""
        baselines = [entry for entry in self.entries if entry.trial.is_simple_baseline]
        found = [entry for entry in baselines if among is None or entry.trial.label in among]
        return min(found, key=self.key, default=None)

    def decisive(self, entry: Entry) -> dict[str, float]:
        """`Reference.decisive` of an entry."""
        return self.reference.decisive(self._of(entry))

    def gains(self, entry: Entry) -> dict[str, float]:
        """`Reference.gains` of an entry."""
        return self.reference.gains(self._of(entry))

    def excess(self, entry: Entry) -> float:
        """`Reference.excess` of an entry."""
        return self.reference.excess(self._of(entry))

    def _of(self, entry: Entry) -> FloatArray:
        number = entry.trial.number
        if number not in self._losses:
            self._losses[number] = losses_by_task(self.objective, entry)
        return self._losses[number]


def losses_by_task(objective: Objective, entry: Entry) -> FloatArray:
    """The loss of a scored trial on every task, (n_tasks,)."""
    if objective.kind == "mean" or entry.losses is None:  # of a mean only the sum is recorded
        return objective.by_task(scores_of(entry))
    return np.array(entry.losses)


def scores_of(entry: Entry) -> dict[str, Scores]:
    """Scores by task. Raises SelectionError for a trial without any."""
    if entry.outcome is None:
        raise SelectionError(f"Trial {entry.trial.number} has no scores.")
    return dict(entry.outcome.scores)


def _is_comparable(entry: Entry, split: str) -> bool:
    scored_here = entry.losses is not None and entry.trial.split == split
    return scored_here and entry.trial.origin not in (Origin.CANARY, Origin.RERUN)
