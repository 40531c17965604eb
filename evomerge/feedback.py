"""Feedback to the optimizer: point, losses and per-example values of each trial, once they are known."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, Protocol

import numpy as np

from evaluators.base import Scores
from evomerge import plugins
from evomerge.failures import forgiven
from evomerge.objective import Objective
from evomerge.objective.reference import Reference
from evomerge.optimizers._portfolio import GradientPortfolio, Portfolio, check_inner
from evomerge.optimizers._threads import on_one_thread
from evomerge.optimizers.base import FloatArray, Measures, Observation, Optimizer, Positions, TaskExamples
from evomerge.plugins import PluginSpec
from evomerge.racing import Race
from evomerge.search_examples import SearchExamples
from evomerge.statistics import clusters_of, sample
from evomerge.study import Entry, Growth, Study
from evomerge.study.lines import no_collection
from evomerge.trial import Origin, Trial

#: Event that records what an optimizer can measure besides whole candidates.
MEASURES = "measures"


class Listener(Protocol):
    """The interface of an optimizer through which it learns from trials."""

    def tell(self, observation: Observation) -> None:
        """Take the result of a trial."""

    def limit(self, losses: Sequence[float]) -> None:
        """Take upper bounds on the losses."""


class Recorder:
    """Keeps what an optimizer was told."""

    def __init__(self) -> None:
        self.told: list[Observation] = []

    def tell(self, observation: Observation) -> None:
        """Keep an observation."""
        self.told.append(observation)

    def limit(self, losses: Sequence[float]) -> None:
        """Take upper bounds on the losses, which follow from the parents and are set anew."""


class Feedback:
    """Reports trials to the optimizer: points of its cube, scored on the search split.

    Losses relative to parents and baselines are held back until all of these have ended, and everything until the
    models that are extended have ended, after examples were added. So what an optimizer is told, and in which order,
    follows from the ledger alone. problem: why nothing can be told, if so.
    parents: labels of the models that losses may be relative to, see `compared_with`.
    race: the race of the candidates, if they do. examples: those of the search split, where parts are asked for.

    After examples were added, an optimizer that asks for whole candidates gets all earlier candidates again, under
    their numbers: with their new losses if they were extended, else with the old ones plus the mean change of the
    extended models, since scores on some of the examples cannot be compared with scores on all. One that asks for parts
    starts afresh, and gets the extended models as baselines.

    Trials of earlier studies come before those of this one, as points that the optimizer has not proposed, with
    negative numbers and the losses of the objective of this study.
    """

    def __init__(
        self,
        optimizer: Listener,
        objective: Objective,
        parents: Collection[str],
        *,
        race: Race | None = None,
        examples: SearchExamples | None = None,
    ) -> None:
        self._optimizer, self._objective = optimizer, objective
        self._race, self._examples = race, examples
        self._missing = set(parents) if objective.needs_parents else set()
        self._parents: list[Mapping[str, Scores]] = []
        self._baselines: list[Mapping[str, Scores]] = []
        self._reference: Reference | None = None
        self._held: list[Entry] = []
        self._before: list[Observation] = []
        self._extended: frozenset[int] = frozenset()
        self._extending: set[int] = set()
        self._told_as: dict[int, int] = {}
        self._share = 1.0
        self._learned: tuple[Entry, ...] = ()
        self.problem: str | None = None
        if objective.needs_parents and not parents:
            self.problem = "The objective is relative to the parents, and none of them is among the planned trials."

    @property
    def waiting(self) -> bool:
        """Whether the parents, or the models that are extended, are still being scored."""
        return bool(self._missing or self._extending)

    def replay(self, study: Study) -> None:
        """Take what a study holds, but for the failures of a systematic fault: those trials run again."""
        self._learned = tuple(each.entry for each in study.learned if each.observed)
        with on_one_thread(), no_collection():
            self._replay(study.growths, study.ended, forgiven(study))
        for trial in (entry.trial for asked in (study.parts, study.entries) for entry in asked.values()):
            if self._race is not None:
                self._race.asked(trial)

    def _replay(self, growths: Sequence[Growth], ended: Sequence[Entry], again: Collection[int]) -> None:
        if growths:
            self._resume_after(growths, again)
            ended = ended[len(growths[-1].before) :]
        self._tell_learned()
        for entry in ended:
            if entry.trial.number not in again or entry.trial.merge is None:
                self.take(entry)

    def _resume_after(self, growths: Sequence[Growth], again: Collection[int]) -> None:
        """Recall what was told before examples were added, and which models are extended."""
        last, learned = growths[-1], self._learned
        self._learned = ()
        self._extended, self._extending, self._share = frozenset(last.extends), set(last.extends), last.share
        if self._starts_afresh:
            return
        recorder, race = Recorder(), None if self._race is None else self._race.on(SearchExamples(last.old))
        earlier = Feedback(recorder, self._objective, self._missing, race=race)
        earlier._learned = learned
        earlier._replay(growths[:-1], last.before, again)
        self._before = recorder.told
        self._told_as = {
            e.trial.number: earlier._number(e.trial) for e in last.before if e.trial.number in self._extended
        }

    @property
    def _starts_afresh(self) -> bool:
        return isinstance(self._optimizer, Optimizer) and self._optimizer.uses_parts

    def _number(self, trial: Trial) -> int:
        """Return the number under which the optimizer knows a trial."""
        if trial.extends in self._told_as:
            return self._told_as[trial.extends]
        return trial.number if self._race is None else self._race.first_of(trial)

    def take(self, entry: Entry) -> str | None:
        """Tell of a trial, now or when the parents are known; returns `problem`."""
        if entry.trial.split != "search" or entry.trial.origin is Origin.CANARY:
            return None
        self._held.append(entry)
        if entry.trial.label in self._missing:
            self._missing.remove(entry.trial.label)
            if entry.losses is not None and entry.outcome is not None:
                kind = self._parents if entry.trial.origin.is_parent else self._baselines
                kind.append(entry.outcome.scores)
            if not self._missing:
                self._compare()
        if entry.trial.extends is not None:
            self._extending.discard(entry.trial.extends)
        if not self.waiting and self.problem is None:
            self._tell_learned()
            held, self._held = self._held, []
            again = self._tell_before(held)
            for each in held:
                self._tell(each, again)
        return self.problem

    def _tell_learned(self) -> None:
        """Tell once what was learned from earlier studies, as soon as losses are known."""
        if self.waiting or self.problem is not None:
            return
        learned, self._learned = self._learned, ()
        for entry in learned:
            trial, outcome = entry.trial, entry.outcome
            if trial.x is not None and outcome is not None:
                losses = tuple(self._objective.losses(outcome.scores))
                self._tell_whole(entry.changed(losses=losses), trial.number, trial.x, proposed=False)

    def _tell_before(self, held: Sequence[Entry]) -> frozenset[int]:
        """Tell what was told before examples were added; returns the numbers.

        held: trials since then, the extended models among them.
        """
        if not self._before:
            return frozenset()
        before, self._before = self._before, []
        known = {told.number: told.losses for told in before if told.losses is not None}
        extended = {self._number(e.trial): e for e in held if e.trial.extends in self._told_as and e.losses is not None}
        new = {number: self._losses(entry) for number, entry in extended.items()}
        changes = [losses - known[number] for number, losses in new.items() if number in known]
        change = np.mean(changes, axis=0) if changes else 0.0
        for told in before:
            if told.number in extended:
                self._tell_whole(extended[told.number], told.number, told.x, told.proposed)
            elif told.losses is None:
                self._optimizer.tell(told)
            else:
                share = told.share * self._share
                self._optimizer.tell(told.changed(losses=told.losses + change, examples=(), share=share, seconds=None))
        return frozenset(told.number for told in before)

    def _compare(self) -> None:
        self._reference = Reference.among(self._objective, self._parents, baselines=self._baselines)
        self.problem = self._reference.problem
        if self._objective.pareto and self.problem is None:
            self._optimizer.limit(self._reference.search_limits.tolist())

    def _tell(self, entry: Entry, again: Collection[int]) -> None:
        trial = entry.trial
        dropped = None if self._race is None else self._race.take(entry)
        number = self._number(trial)
        if trial.extends in self._told_as and number in again:
            return
        if dropped is not None:
            self._optimizer.tell(Observation(number, dropped.x, dropped.losses, share=dropped.share))
        elif trial.is_part and (self._race is None or trial.gradient is not None):
            self._tell_part(entry)
        elif trial.x is not None and not (trial.is_part and entry.outcome and entry.outcome.failure is None):
            extended = trial.extends in self._extended
            candidate = trial.origin is Origin.SEARCH
            # Descents start anew; a candidate of before would look like a baseline that they do not reach.
            if not (extended and candidate and self._descends):
                self._tell_whole(entry, number, trial.x, candidate and not extended)

    @property
    def _descends(self) -> bool:
        return isinstance(self._optimizer, Optimizer) and self._optimizer.follows_gradients

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

    def _losses(self, entry: Entry) -> FloatArray:
        """Return the losses that the optimizer gets for a scored trial."""
        if self._reference is None or entry.outcome is None:
            return np.array(entry.losses, dtype=np.float64)
        scores = entry.outcome.scores
        return self._reference.told(self._objective.by_task(scores), self._reference.constrained(scores))

    def _tell_whole(self, entry: Entry, number: int, x: FloatArray, proposed: bool) -> None:
        losses: FloatArray | None = None
        examples: Sequence[FloatArray] = ()
        seconds: float | None = None
        if entry.losses is not None and entry.outcome is not None:
            if entry.trial.extends is None:  # the parts that a trial extends took time, too
                seconds = sum(entry.outcome.seconds.values()) or None
            losses = self._losses(entry)
            examples = _Examples(self._objective, entry.outcome.scores)
        self._optimizer.tell(Observation(number, x, losses, proposed, examples, seconds=seconds))


def compared_with(objective: Objective, trials: Iterable[Trial]) -> set[str]:
    """Return the labels of the models that losses are relative to: the parents, for ranks also the other baselines."""
    baselines = objective.needs_baselines
    return {trial.label for trial in trials if trial.origin.is_parent or (baselines and trial.merge is not None)}


class _Examples(Sequence[FloatArray]):
    """Losses of the distinct examples by task, read when an optimizer looks at them: most look at the means only."""

    def __init__(self, objective: Objective, scores: Mapping[str, Scores]) -> None:
        self._objective, self._scores = objective, scores

    def __len__(self) -> int:
        return len(self._objective.weights)

    def __getitem__(self, task: Any) -> Any:
        return self._read[task]

    @cached_property
    def _read(self) -> tuple[FloatArray, ...]:
        return tuple(
            sample(values, clusters_of(self._scores[task].example_ids)).values
            for task, values in zip(self._objective.weights, self._objective.examples(self._scores), strict=True)
        )


def new_optimizer(
    spec: PluginSpec,
    objective: Objective,
    *,
    dimension: int,
    seed: int,
    start: FloatArray | None,
    measures: Measures | None = None,
    methods: Mapping[str, int] | None = None,
) -> Optimizer:
    """An optimizer that was told nothing yet. Raises PluginError or OptimizerError where it cannot be built.

    methods: number of coordinates by merge method, where the search chooses from several.
    """

    def build(spec: PluginSpec, dimension: int, start: FloatArray | None) -> Optimizer:
        built: Optimizer = plugins.build(
            "optimizer",
            spec,
            Optimizer,
            dimension=dimension,
            n_objectives=objective.n_objectives,
            seed=seed,
            start=start,
        )
        return built

    if methods:
        kind = GradientPortfolio if check_inner(spec).follows_gradients else Portfolio
        optimizer: Optimizer = kind(methods, objective.n_objectives, seed, start, build=partial(build, spec))
    else:
        optimizer = build(spec, dimension, start)
    if objective.pareto:
        optimizer.prefer(list(objective.weights.values()))
    if measures is not None:
        optimizer.inform(measures)
    return optimizer


def record_measures(study: Study, measures: Measures) -> None:
    """Write down, once for the same examples, what an optimizer was told that it can measure.

    Reports build it anew without the models.
    """
    if all(kind != MEASURES for kind, _ in study.events_since):
        tasks = {
            task.name: {"examples": task.n_examples, "share": task.share, "no_loss": task.no_loss}
            for task in measures.tasks
        }
        coarse = None if measures.coarse is None else measures.coarse.tolist()
        no_gradient, no_parts = measures.no_gradient, measures.no_parts
        places = measures.positions
        positions = None if places is None else {"series": places.series.tolist(), "depths": places.depths.tolist()}
        study.event(
            MEASURES,
            tasks=tasks,
            no_gradient=no_gradient,
            coarse=coarse,
            no_parts=no_parts,
            positions=positions,
            **({"by_method": dict(measures.by_method)} if measures.by_method else {}),
        )


def measures_of(study: Study) -> Measures | None:
    """What the optimizer of a study was told that it can measure; None where it asks for whole candidates only."""
    said = next((data for kind, data in reversed(study.events) if kind == MEASURES), None)
    if said is None:
        return None
    tasks = tuple(TaskExamples(name, t["examples"], t["share"], t["no_loss"]) for name, t in said["tasks"].items())
    coarse = None if said["coarse"] is None else np.array(said["coarse"])
    places = said.get("positions")
    positions = None if places is None else Positions(np.array(places["series"]), np.array(places["depths"]))
    return Measures(tasks, said["no_gradient"], coarse, said.get("no_parts"), positions, said.get("by_method", {}))


def replay(
    study: Study,
    optimizer: Optimizer,
    objective: Objective,
    *,
    race: Race | None = None,
    examples: SearchExamples | None = None,
) -> None:
    """Tell an optimizer what the study holds."""
    asked = (*study.entries.values(), *study.parts.values())
    on_search = (entry.trial for entry in asked if entry.trial.split == "search")
    parents = compared_with(objective, on_search)
    Feedback(optimizer, objective, parents, race=race, examples=examples).replay(study)
