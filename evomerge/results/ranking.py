"""Models scored on the same examples of one split, ranked by the study's objective."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np

from evaluators.base import Scores
from evomerge.errors import EvomergeError
from evomerge.objective import FloatArray, Objective
from evomerge.objective.reference import ROUNDING, Reference
from evomerge.objective.score import DisplayScore, display_score
from evomerge.objective.spec import objective_of_study
from evomerge.results.coordinates import methods_of
from evomerge.results.methods import method_of
from evomerge.results.scored import ScoredModel, identity, scores_of
from evomerge.statistics import pareto
from evomerge.study import Entry, Study, StudyError, ids_of, same_examples
from evomerge.trial import Origin

#: A told trial and its scores by task, in the order of the search file.
_Row = tuple[Entry, Mapping[str, Scores]]


class SelectionError(EvomergeError):
    """A study in which nothing can be selected yet."""


class Ranking:
    """The models scored on one split, each once; canaries and reruns are left out.

    Args:
        study: The study that they are of.
        objective: The objective of the search; `objective`, the attribute, is that on the split.
        split: "search", "select" or "report".
        display: The score to show; by default the one that fits these models.

    Attributes:
        left_out: Number of further models, scored on other examples.
        reference: The best parent on every task.
    """

    def __init__(self, study: Study, objective: Objective, split: str, display: DisplayScore | None = None) -> None:
        self.objective = objective = objective.on(split)
        self._rows, self.left_out = _comparable(study, objective, split)
        display = display or display_score(objective, (scores for _, scores in self._rows))
        self.reference = _reference(study, split, self._rows, display)
        self._study, self._methods = study, methods_of(study)
        self._as_told = _is_of_study(study, objective, split)

    @cached_property
    def models(self) -> tuple[ScoredModel, ...]:
        """All models, in order of completion.

        Only scores on the same examples can be compared: of several sets of examples the largest counts.
        """
        return tuple(map(self._model, self._rows))

    @property
    def baselines(self) -> list[ScoredModel]:
        """The models that are no points of the search space."""
        return [self._model(row) for row in self._rows if row[0].trial.merge is not None]

    @property
    def best_merge(self) -> ScoredModel | None:
        """The best of `merges`; None without any."""
        trials = ((row, row[0].trial) for row in self._rows)
        return self._best([row for row, trial in trials if trial.merge is None or not trial.origin.is_parent])

    @property
    def best_candidate(self) -> ScoredModel | None:
        """The best of `candidates`; None without any."""
        return self._best([row for row in self._rows if row[0].trial.merge is None])

    @property
    def merges(self) -> list[ScoredModel]:
        """The merges: candidates, and baselines that are not parents."""
        return [model for model in self.models if not model.is_parent]

    @property
    def candidates(self) -> list[ScoredModel]:
        """The points of the search space."""
        return [model for model in self.models if model.is_candidate]

    @property
    def parents(self) -> list[ScoredModel]:
        """The base and the parents."""
        return [model for model in self.models if model.is_parent]

    @property
    def averages(self) -> list[ScoredModel]:
        """The merges that are not searched for: the uniform average and the task-arithmetic grid."""
        return [model for model in self.models if model.kind == "average"]

    def _best(self, rows: Sequence[_Row]) -> ScoredModel | None:
        if self._as_told and self.objective.kind == "mean" and not self.objective.keep:
            losses = [entry.losses[0] for entry, _ in rows if entry.losses is not None]
            enough = min(losses, default=0.0) + ROUNDING
            rows = [row for row, loss in zip(rows, losses, strict=True) if loss <= enough]
        return best(map(self._model, rows))

    def _model(self, row: _Row) -> ScoredModel:
        entry, scores = row
        return ScoredModel(
            *identity(self._study, entry.trial),
            entry.trial,
            scores,
            self.reference,
            method_of(self._methods, entry.trial),
            entry.losses if self._as_told else None,
        )


def best(models: Iterable[ScoredModel]) -> ScoredModel | None:
    """Return the best of these models; None without any."""
    return min(models, key=lambda model: model.rank, default=None)


def ranked(models: Iterable[ScoredModel]) -> list[ScoredModel]:
    """Sort models, best first."""
    return sorted(models, key=lambda model: model.rank)


def losses_of(models: Iterable[ScoredModel]) -> FloatArray:
    """Return the losses by task, (n_models, n_tasks)."""
    return np.array([model.losses for model in models])


def non_dominated(models: Sequence[ScoredModel]) -> list[ScoredModel]:
    """Return the models that no other of them dominates."""
    kept = pareto.non_dominated(losses_of(models)) if models else ()
    return [model for model, keep in zip(models, kept, strict=True) if keep]


def best_on(column: int, models: Iterable[ScoredModel]) -> ScoredModel | None:
    """Return the model with the smallest loss on a task, the earlier of equals; column: the task's index."""
    return min(models, key=lambda model: (float(model.losses[column]), model.number), default=None)


def _comparable(study: Study, objective: Objective, split: str) -> tuple[list[_Row], int]:
    """Return the comparable trials of a split, and the number of those scored on other examples."""
    found: dict[object, Entry] = {}
    for entry in study.told:
        trial = entry.trial
        if entry.losses is not None and trial.split == split and trial.origin not in (Origin.CANARY, Origin.RERUN):
            named = split != "search" or trial.merge is not None
            found.setdefault(trial.label if named else trial.number, entry)
    groups: list[list[_Row]] = []
    for entry in found.values():
        scores = scores_of(entry, objective)
        for group in groups:
            if same_examples(group[0][1], scores):
                group.append((entry, scores))
                break
        else:
            groups.append([(entry, scores)])
    kept = max(groups, key=lambda group: (_count(group[0][1]), len(group)), default=[])
    return kept, len(found) - len(kept)


def _is_of_study(study: Study, objective: Objective, split: str) -> bool:
    """Return whether the ledger's losses are those of this objective, so that no score has to be looked at."""
    try:
        return objective == objective_of_study(study).on(split)
    except StudyError:  # an early ledger that does not say on which tasks lower is better
        return False


def _count(scores: Mapping[str, Scores]) -> int:
    """Count the examples that a trial was scored on."""
    return sum(len(ids_of(scores, task)) for task in scores)


def _parents(rows: Iterable[_Row]) -> list[Mapping[str, Scores]]:
    """Return the scores of the base and the parents."""
    return [scores for entry, scores in rows if entry.trial.merge is not None and entry.trial.origin.is_parent]


def _baselines(rows: Iterable[_Row]) -> list[Mapping[str, Scores]]:
    """Return the scores of the other baselines."""
    return [scores for entry, scores in rows if entry.trial.is_simple_baseline]


def _reference(study: Study, split: str, rows: Sequence[_Row], display: DisplayScore) -> Reference:
    """Return the best parent of every task among these trials.

    In a search for retention, a parent that scores nothing on these few examples is measured by the search split.
    """
    objective = display.objective
    found = Reference.among(objective, _parents(rows), display, _baselines(rows))
    if found.problem is None or found.losses is None or split == "search":
        return found
    on_search, _ = _comparable(study, objective, "search")
    earlier = Reference.of(objective, map(objective.metric_losses, _parents(on_search))).losses
    return found if earlier is None else replace(found, losses=np.where(found.losses == 0, earlier, found.losses))
