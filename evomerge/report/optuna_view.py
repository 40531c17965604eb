"""The search split of a study as an in-memory Optuna study that follows the ledger; for display only."""

import warnings
from dataclasses import asdict
from datetime import datetime
from math import isfinite

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.storages import InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from evomerge.budget import spending
from evomerge.objective.score import DisplayScore
from evomerge.report import words
from evomerge.report.axes import Axis, of_points
from evomerge.report.status import state_of
from evomerge.run import Run
from evomerge.study import Entry
from evomerge.study.follow import Follower

#: Characters kept of the reason of a failure.
REASON = 300


class OptunaView:
    """Optuna study number 0 of `storage`, created and updated from a follower of the ledger.

    Values are scores as people read them: of every task where the ledger has a loss for each, else their weighted
    mean. axes: the parameters; by number when not given. It is empty until one candidate has been scored.
    """

    def __init__(self, follower: Follower, axes: tuple[Axis, ...] | None = None) -> None:
        self.storage = InMemoryStorage()
        self._mirror = follower
        self._run = Run.of(follower.study)
        self._axes = axes
        self._by_task = False
        self._distributions: dict[str, BaseDistribution] = {}
        self._study_id: int | None = None
        self._trials: dict[int, int] = {}
        self._asked: dict[int, datetime] = {}
        self._told: dict[int, datetime] = {}
        self._said: dict[str, str] = {}

    @property
    def name(self) -> str:
        """The name of the Optuna study: that of the run's folder."""
        return self._mirror.study.folder.resolve().name

    @property
    def size(self) -> int:
        """The number of trials in the Optuna study."""
        return len(self._trials)

    def update(self) -> None:
        """Add what was written since the last call. Raises StudyError as `Follower.poll` does."""
        changed: dict[int, None] = {}
        for change in self._mirror.poll():
            if change.number is not None:
                changed[change.number] = None
                (self._asked if change.kind == "asked" else self._told)[change.number] = change.at
        study = self._mirror.study
        if self._study_id is None:
            if all(entry.losses is None for entry in study.told):
                return
            self._begin()
            changed = dict.fromkeys(study.entries)
        for number in changed:
            entry = study.entries.get(number)  # parts are no candidates
            if entry is not None and entry.trial.split == "search":
                self._put(entry)
        self._say()

    def _begin(self) -> None:
        objective = self._run.objective
        self._by_task = objective.kind != "mean" and len(objective.weights) > 1
        names = list(objective.weights) if self._by_task else ["score"]
        lower = objective.lower_is_better if self._by_task else ()
        if self._axes is None:
            points = [entry.trial.x for entry in self._mirror.study.entries.values() if entry.trial.x is not None]
            self._axes = of_points(len(points[0])) if points else ()
        self._distributions = {axis.name: FloatDistribution(axis.low, axis.high) for axis in self._axes}
        directions = [StudyDirection.MINIMIZE if name in lower else StudyDirection.MAXIMIZE for name in names]
        self._study_id = self.storage.create_new_study(directions, self.name)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)  # since 2023
            optuna.Study(self.name, self.storage).set_metric_names(names)

    def _put(self, entry: Entry) -> None:
        """Add a trial, or complete one that was running."""
        number = entry.trial.number
        if self._study_id is None:
            return
        if number not in self._trials:
            self._trials[number] = self.storage.create_new_trial(self._study_id, self._frozen(entry))
        elif entry.told_at is not None:
            trial = self._trials[number]
            for name, value in self._attributes(entry).items():
                self.storage.set_trial_user_attr(trial, name, value)
            self.storage.set_trial_state_values(trial, _state(entry), self._values(entry))

    def _frozen(self, entry: Entry) -> FrozenTrial:
        number, x = entry.trial.number, entry.trial.x
        # Once a study is extended, Optuna's numbers differ from its own, which count the select and report splits too.
        own = {} if number == len(self._trials) else {"trial": number}
        told = self._told.get(number)
        return FrozenTrial(
            number=-1,  # the storage counts
            trial_id=-1,
            state=_state(entry),
            value=None,
            values=self._values(entry),
            params={} if x is None else {axis.name: axis.value(x) for axis in self._axes or ()},
            distributions={} if x is None else self._distributions,
            datetime_start=_local(self._asked[number]),
            datetime_complete=None if told is None else _local(told),
            user_attrs=own | self._attributes(entry),
            system_attrs={},
            intermediate_values={},
        )

    def _values(self, entry: Entry) -> list[float] | None:
        if entry.losses is None or entry.outcome is None:
            return None
        if self._by_task:
            return [entry.outcome.scores[task].mean for task in self._run.objective.weights]
        return [self._run.objective.score_of(entry.losses)]

    def _attributes(self, entry: Entry) -> dict[str, str | float]:
        attributes: dict[str, str | float] = {"label": entry.trial.label}
        if entry.outcome is None:
            return attributes
        if entry.losses is not None and not self._by_task:
            objective = self._run.objective
            attributes |= objective.means(entry.outcome.scores)
            error = DisplayScore(objective).estimate(entry.outcome.scores).standard_error
            attributes |= {"standard error": error} if isfinite(error) else {}
        if entry.outcome.failure is not None:
            attributes["failure"] = f"{entry.outcome.failure.kind}: {entry.outcome.failure.message}"[:REASON]
        return attributes

    def _say(self) -> None:
        """Store the state and the winner as attributes of the Optuna study."""
        study = self._mirror.study
        winners = [str(data["label"]) for kind, data in study.events_since if kind == "selected"]
        said = {"folder": str(study.folder), "state": state_of(study), **({"selected": winners[-1]} if winners else {})}
        if study.parts:
            spent = spending(study)
            said["spent"] = ", ".join([words.evaluations(spent.evaluations), *words.partial(asdict(spent))])
        for name, text in said.items():
            if self._said.get(name) != text and self._study_id is not None:
                self.storage.set_study_user_attr(self._study_id, name, text)
        self._said = said


def _state(entry: Entry) -> TrialState:
    if entry.told_at is None:
        return TrialState.RUNNING
    return TrialState.FAIL if entry.losses is None else TrialState.COMPLETE


def _local(at: datetime) -> datetime:
    """Convert to local time without a time zone, as Optuna stores it."""
    return at.astimezone().replace(tzinfo=None)
