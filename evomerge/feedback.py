"""Feedback to the optimizer: point, losses and per-example values of each trial, once they are known."""

from collections.abc import Collection

import numpy as np

from evomerge import plugins
from evomerge.failures import forgiven
from evomerge.objective import Objective
from evomerge.objective.reference import Reference
from evomerge.optimizers.base import FloatArray, Measures, Observation, Optimizer, Positions, TaskExamples
from evomerge.plugins import PluginSpec
from evomerge.racing import Race
from evomerge.search_examples import SearchExamples
from evomerge.statistics import clusters_of, sample
from evomerge.study import Entry, Study
from evomerge.trial import Origin

#: Event that records what an optimizer can measure besides whole candidates.
MEASURES = "measures"


class Feedback:
    """Reports trials to the optimizer: points of its cube, scored on the search split.

    Losses relative to the parents are held back until all parents have ended. So what an optimizer
    is told, and in which order, follows from the ledger alone. problem: why nothing can be told, if so.
    race: the race of the candidates, if they do. examples: those of the search split, where parts are asked for.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        objective: Objective,
        parents: Collection[str],
        *,
        race: Race | None = None,
        examples: SearchExamples | None = None,
    ) -> None:
        self._optimizer, self._objective = optimizer, objective
        self._race, self._examples = race, examples
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
        for entry in study.ended:
            if entry.trial.number not in again or entry.trial.merge is None:
                self.take(entry)
        for trial in (entry.trial for asked in (study.parts, study.entries) for entry in asked.values()):
            if self._race is not None:
                self._race.asked(trial)

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
        number, dropped = trial.number, None
        if self._race is not None:
            dropped, number = self._race.take(entry), self._race.first_of(trial)
        if dropped is not None:
            self._optimizer.tell(Observation(number, dropped.x, dropped.losses, share=dropped.share))
        elif trial.is_part and (self._race is None or trial.gradient is not None):
            self._tell_part(entry)
        elif trial.x is not None and not (trial.is_part and entry.outcome and entry.outcome.failure is None):
            self._tell_whole(entry, number, trial.x)

    def _tell_part(self, entry: Entry) -> None:
        trial, outcome = entry.trial, entry.outcome
        if trial.x is None or trial.examples is None or self._examples is None:
            return
        examples: tuple[FloatArray, ...] = ()
        if outcome is not None and outcome.failure is None:
            sign = {task: 1.0 if trial.gradient is not None else -self._objective.sign(task) for task in trial.examples}
            examples = tuple(
                sign[task] * outcome.scores[task].values if task in outcome.scores else np.empty(0)
                for task in self._objective.weights
            )
        self._optimizer.tell(
            Observation(
                trial.number,
                trial.x,
                None,
                examples=examples,
                share=trial.cost,
                rows=self._examples.rows(trial.examples),
                gradient=None if outcome is None else outcome.gradient,
            )
        )

    def _tell_whole(self, entry: Entry, number: int, x: FloatArray) -> None:
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
        proposed = entry.trial.origin is Origin.SEARCH
        self._optimizer.tell(Observation(number, x, losses, proposed, examples))


def new_optimizer(
    spec: PluginSpec,
    objective: Objective,
    *,
    dimension: int,
    seed: int,
    start: FloatArray | None,
    measures: Measures | None = None,
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
    if measures is not None:
        optimizer.inform(measures)
    return optimizer


def record_measures(study: Study, measures: Measures) -> None:
    """Write down, once, what an optimizer was told that it can measure: reports build it anew without the models."""
    if all(kind != MEASURES for kind, _ in study.events):
        tasks = {
            task.name: {"examples": task.n_examples, "share": task.share, "no_loss": task.no_loss}
            for task in measures.tasks
        }
        coarse = None if measures.coarse is None else measures.coarse.tolist()
        no_gradient, no_parts = measures.no_gradient, measures.no_parts
        places = measures.positions
        positions = None if places is None else {"series": places.series.tolist(), "depths": places.depths.tolist()}
        study.event(
            MEASURES, tasks=tasks, no_gradient=no_gradient, coarse=coarse, no_parts=no_parts, positions=positions
        )


def measures_of(study: Study) -> Measures | None:
    """What the optimizer of a study was told that it can measure; None where it asks for whole candidates only."""
    said = next((data for kind, data in study.events if kind == MEASURES), None)
    if said is None:
        return None
    tasks = tuple(TaskExamples(name, t["examples"], t["share"], t["no_loss"]) for name, t in said["tasks"].items())
    coarse = None if said["coarse"] is None else np.array(said["coarse"])
    places = said.get("positions")
    positions = None if places is None else Positions(np.array(places["series"]), np.array(places["depths"]))
    return Measures(tasks, said["no_gradient"], coarse, said.get("no_parts"), positions)


def replay(
    study: Study,
    optimizer: Optimizer,
    objective: Objective,
    *,
    race: Race | None = None,
    examples: SearchExamples | None = None,
) -> None:
    """Tell an optimizer what the study holds."""
    on_search = (entry.trial for entry in study.entries.values() if entry.trial.split == "search")
    parents = {trial.label for trial in on_search if trial.origin.is_parent}
    Feedback(optimizer, objective, parents, race=race, examples=examples).replay(study)
