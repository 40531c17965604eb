"""Feedback to the optimizer: point, losses and per-example values of each trial, once they are known."""

from collections.abc import Collection

import numpy as np

from evomerge import plugins
from evomerge.failures import forgiven
from evomerge.objective import Objective
from evomerge.objective.reference import Reference
from evomerge.optimizers.base import FloatArray, Observation, Optimizer
from evomerge.plugins import PluginSpec
from evomerge.statistics import clusters_of, sample
from evomerge.study import Entry, Study
from evomerge.trial import Origin


class Feedback:
    """Reports trials to the optimizer: points of its cube, scored on the search split.

    Losses relative to the parents are held back until all parents have ended. So what an optimizer
    is told, and in which order, follows from the ledger alone. problem: why nothing can be told, if so.
    """

    def __init__(self, optimizer: Optimizer, objective: Objective, parents: Collection[str]) -> None:
        self._optimizer, self._objective = optimizer, objective
        self._missing = set(parents) if objective.needs_parents else set()
        self._parents: list[FloatArray] = []
        self._reference: Reference | None = None
        self._held: list[Entry] = []
        self.problem: str | None = None
        if objective.needs_parents and not parents:
            self.problem = "The objective is relative to the parents, and none of them is among the planned trials."

    @property
    def waiting(self) -> bool:
        """Whether the parents are still being scored."""
        return bool(self._missing)

    def replay(self, study: Study) -> None:
        """Take what a study holds, but for the failures of a systematic fault: those trials run again."""
        again = forgiven(study)
        for entry in study.told:
            if entry.trial.number not in again or entry.trial.merge is None:
                self.take(entry)

    def take(self, entry: Entry) -> str | None:
        """Tell of a trial, now or when the parents are known; returns `problem`."""
        if entry.trial.split != "search" or entry.trial.origin is Origin.CANARY:
            return None
        self._held.append(entry)
        if entry.trial.label in self._missing:
            self._missing.remove(entry.trial.label)
            if entry.losses is not None and entry.outcome is not None:
                self._parents.append(self._objective.by_task(entry.outcome.scores))
            if not self._missing:
                self._compare()
        if not self._missing and self.problem is None:
            held, self._held = self._held, []
            for each in held:
                self._tell(each)
        return self.problem

    def _compare(self) -> None:
        self._reference = Reference.of(self._objective, self._parents)
        self.problem = self._reference.problem
        if self._objective.pareto and self.problem is None:
            self._optimizer.limit(self._reference.limits.tolist())

    def _tell(self, entry: Entry) -> None:
        trial = entry.trial
        if trial.x is None:
            return
        losses: FloatArray | None = None
        examples: tuple[FloatArray, ...] = ()
        if entry.losses is not None and entry.outcome is not None:
            scores = entry.outcome.scores
            losses = np.array(entry.losses, dtype=np.float64)
            examples = tuple(
                sample(values, clusters_of(scores[task].example_ids)).values
                for task, values in zip(self._objective.weights, self._objective.examples(scores), strict=True)
            )
            if self._reference is not None:
                losses = self._reference.told(self._objective.by_task(scores))
        proposed = trial.origin is Origin.SEARCH
        self._optimizer.tell(Observation(trial.number, trial.x, losses, proposed, examples))


def new_optimizer(
    spec: PluginSpec, objective: Objective, *, dimension: int, seed: int, start: FloatArray | None
) -> Optimizer:
    """An optimizer that was told nothing yet. Raises PluginError or OptimizerError where it cannot be built."""
    optimizer: Optimizer = plugins.build(
        "optimizer",
        spec,
        Optimizer,
        dimension=dimension,
        n_objectives=objective.n_objectives,
        seed=seed,
        start=start,
    )
    if objective.pareto:
        optimizer.prefer(list(objective.weights.values()))
    return optimizer


def replay(study: Study, optimizer: Optimizer, objective: Objective) -> None:
    """Tell an optimizer what the study holds."""
    on_search = (entry.trial for entry in study.entries.values() if entry.trial.split == "search")
    parents = {trial.label for trial in on_search if trial.origin.is_parent}
    Feedback(optimizer, objective, parents).replay(study)
