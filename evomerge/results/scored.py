"""Scored models: what the trials of a study scored on one split, and what each of them is."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np

from evaluators.base import Scores
from evomerge.objective import FloatArray, Objective
from evomerge.objective.reference import DECIMALS, Order, Reference
from evomerge.objective.score import DisplayScore, task_estimate
from evomerge.statistics import Estimate
from evomerge.study import Entry, StoredScores, Study
from evomerge.trial import Origin, Trial, detail_of, number_in

Kind = Literal["candidate", "start", "recommended", "average", "parent", "base"]
_BASELINES: Mapping[Origin, Kind] = {Origin.BASE: "base", Origin.PARENT: "parent", Origin.BASELINE: "average"}
_POINTS: Mapping[Origin, Kind] = {
    Origin.START: "start",
    Origin.LEARNED: "start",
    Origin.RECOMMENDED: "recommended",
}
#: Kinds that are points of the search, and no fixed points of comparison.
CANDIDATES: tuple[Kind, ...] = ("candidate", "start", "recommended")


@dataclass(frozen=True, eq=False, repr=False)
class ScoredModel:
    """A model as it was scored on one split. Values derived from its scores are computed on first access.

    Args:
        label: `trial:7` for a point of the search, else what it is, such as `parent:math`.
        number: Its trial on the search split, which is what `export --trial` takes.
        kind: Its kind, such as `candidate`, `parent` or `average`.
        trial: The trial that scored it on this split.
        scores: Task -> scores, in the order of the search file.
        reference: The parents on this split, which it is compared with.
        method: Its merge method, for a candidate of a search that chooses from several; else None.
        recorded: Its losses for the objective as the ledger has them; None where they have to follow from the scores.
    """

    label: str
    number: int
    kind: Kind
    trial: Trial
    scores: Mapping[str, Scores]
    reference: Reference
    method: str | None = None
    recorded: tuple[float, ...] | None = None

    def __repr__(self) -> str:
        kind, split = self.kind, self.trial.split
        return f"ScoredModel(label={self.label!r}, {kind=}, {split=}, score={self.score.mean:.4g})"

    @property
    def objective(self) -> Objective:
        """The objective of the search."""
        return self.reference.objective

    @property
    def name(self) -> str:
        """`trial 7` for a point of the search, the label of a baseline."""
        return f"trial {self.number}" if self.is_candidate else self.label

    @property
    def is_candidate(self) -> bool:
        """Whether it is a point of the search, and no fixed point of comparison."""
        return self.kind in CANDIDATES

    @property
    def is_parent(self) -> bool:
        """Whether it is one of the models that are merged, or their base."""
        return self.kind in ("parent", "base")

    def shown_by(self, display: DisplayScore) -> "ScoredModel":
        """The same model with another score."""
        return replace(self, reference=replace(self.reference, display=display))

    @cached_property
    def losses(self) -> FloatArray:
        """The loss on every task, (n_tasks,)."""
        if self.recorded is not None and self.objective.kind != "mean":
            return np.array(self.recorded)
        return self.objective.by_task(self.scores)

    @cached_property
    def constrained(self) -> FloatArray:
        """What the constraints of `keep` are about on every task, (n_tasks,); see `Reference.constrained`."""
        return self.reference.constrained(self.scores)

    @cached_property
    def order(self) -> Order:
        """What models are compared by, smaller is better: (excess over what `keep` allows, loss)."""
        if self.recorded is not None and self.objective.kind == "mean" and not self.objective.keep:
            return 0.0, round(self.recorded[0], DECIMALS)
        return self.reference.order(self.losses, self.constrained)

    @property
    def rank(self) -> tuple[float, float, int]:
        """Sort key, best first; ties go to the model submitted earlier."""
        return *self.order, self.trial.number

    @property
    def keeps(self) -> bool:
        """Whether it meets the constraints of `keep` relative to the best parents."""
        return self.order[0] == 0

    @cached_property
    def decisive(self) -> Mapping[str, float]:
        """How its worst task stands, by the objective's kind, where that decides (see `Reference.decisive`)."""
        return self.reference.decisive(self.losses)

    @property
    def gains(self) -> Mapping[str, float]:
        """By task, how far it is ahead of the best parent on it; empty while no parent is scored."""
        return self.reference.gains(self.losses)

    @cached_property
    def score(self) -> Estimate:
        """The weighted mean of the tasks as people read it, larger is better (see `DisplayScore`)."""
        return self.reference.display.estimate(self.scores)

    @cached_property
    def tasks(self) -> Mapping[str, Estimate]:
        """The mean of every task as people read it."""
        return {task: task_estimate(self.objective, task, scores) for task, scores in self.scores.items()}

    @property
    def means(self) -> Mapping[str, float]:
        """The mean of every task, without its standard error."""
        return self.objective.means(self.scores)


def scores_of(entry: Entry, objective: Objective) -> Mapping[str, Scores]:
    """The scores of a trial, in the order of the search file; empty where it has none."""
    if entry.outcome is None:
        return {}
    scores = entry.outcome.scores
    return (
        scores.of(objective.weights) if isinstance(scores, StoredScores) else {t: scores[t] for t in objective.weights}
    )


def reruns(study: Study, objective: Objective, split: str) -> dict[str, Mapping[str, Scores]]:
    """Label -> scores of the models that were scored on a split a second time."""
    here = (entry for entry in study.told if entry.trial.split == split and entry.losses is not None)
    return {detail_of(e.trial.label): scores_of(e, objective) for e in here if e.trial.origin is Origin.RERUN}


def identity(study: Study, trial: Trial) -> tuple[str, int, Kind]:
    """Label, number on the search split, and kind of a trial; on the other splits finalists are called `trial:N`."""
    if trial.merge is not None:
        return trial.label, _number_on_search(study, trial), _BASELINES[trial.origin]
    named = number_in(trial.label)
    number = trial.number if named is None else named
    first = study.entries.get(number)
    origin = trial.origin if first is None else first.trial.origin
    return Origin.CANDIDATE.label(number), number, _POINTS.get(origin, "candidate")


def _number_on_search(study: Study, baseline: Trial) -> int:
    if baseline.split == "search":
        return baseline.number
    on_search = (entry.trial for entry in study.entries.values() if entry.trial.split == "search")
    return next((trial.number for trial in on_search if trial.label == baseline.label), baseline.number)
