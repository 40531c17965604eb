"""Snapshot: where a search stands, read off its study; what the live table, `status` and JSON lines show."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import Any

import numpy as np

from evomerge.aim import configured_objective, objective_of_study, recorded_objective
from evomerge.budget import is_candidate
from evomerge.objective import Objective
from evomerge.report.measured import Measured, MeasuredFront
from evomerge.statistics import Z95, estimate
from evomerge.study import Entry, Study
from evomerge.yardstick import Yardstick

#: Time of workers that no trial used: waiting for a candidate, starting up.
WAITING = "waiting"


@dataclass(frozen=True)
class Standing:
    """A model's score on the search split, larger is better. error: standard error. tasks: mean of each.

    score is None where every task is an objective by itself. gains: by task, how far it is ahead of the best parent;
    empty where the search does not ask for that, or the parents are not scored yet.
    """

    label: str
    number: int
    score: float | None
    error: float
    tasks: Mapping[str, float]
    gains: Mapping[str, float] = field(default_factory=dict)

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval; None without a score or a standard error."""
        if self.score is None or not isfinite(self.error):
            return None
        return self.score - Z95 * self.error, self.score + Z95 * self.error


@dataclass(frozen=True)
class Snapshot:
    """A search at one moment.

    told: candidates with an outcome. trials: how many the budget allows, None without such a limit.
    seconds: running time over all sessions; left: estimate until the budget is spent, None while unknown.
    best: the candidate that the objective likes most; a Pareto search has a front instead.
    stages: stage -> seconds of workers ("merge", "evaluate:TASK", "waiting"). failures: kind -> count.
    """

    study: str
    told: int
    trials: int | None = None
    phase: str = "search"
    busy: int = 0
    slots: int = 0
    seconds: float = 0.0
    left: float | None = None
    best: Standing | None = None
    front: MeasuredFront | None = None
    baselines: tuple[Standing, ...] = ()
    failures: Mapping[str, int] = field(default_factory=dict)
    stages: Mapping[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {
            "study": self.study,
            "phase": self.phase,
            "told": self.told,
            "trials": self.trials,
            "busy": self.busy,
            "slots": self.slots,
            "seconds": round(self.seconds, 3),
            "seconds_left": None if self.left is None else round(self.left, 3),
            "best": None if self.best is None else standing_to_dict(self.best),
            "front": None if self.front is None else self.front.as_dict(),
            "baselines": [standing_to_dict(standing) for standing in self.baselines],
            "failures": dict(self.failures),
            "stages": {stage: round(seconds, 3) for stage, seconds in self.stages.items()},
        }


def take(
    study: Study,
    *,
    trials: int | None = None,
    phase: str = "search",
    busy: int = 0,
    slots: int = 0,
    left: float | None = None,
) -> Snapshot:
    """The state of a study now. trials, phase, busy, slots, left: what only the driver knows."""
    told = [entry for entry in study.told if is_candidate(entry.trial)]
    scored = [entry for entry in told if entry.losses is not None]
    best, front, baselines = _compare(study, scored) if scored else (None, None, [])
    failures = Counter(e.outcome.failure.kind for e in study.told if e.outcome and e.outcome.failure)
    return Snapshot(
        study=str(study.folder),
        told=len(told),
        trials=trials,
        phase=phase,
        busy=busy,
        slots=slots,
        seconds=study.active_seconds,
        left=left,
        best=best,
        front=front,
        baselines=tuple(baselines),
        failures=dict(sorted(failures.items())),
        stages=_stages(study, slots),
    )


def _compare(study: Study, scored: list[Entry]) -> tuple[Standing | None, MeasuredFront | None, list[Standing]]:
    """The best candidate or the front, and the baselines, best first where they have a score."""
    objective = recorded_objective(study) or configured_objective(study.configuration)
    baselines = [standing(e, objective.weights, objective.whole_model) for e in scored if e.trial.merge is not None]
    searched = [entry for entry in scored if entry.trial.merge is None]
    if objective.kind == "mean" and not objective.keep:
        baselines.sort(key=lambda s: (-(s.score or 0.0), s.number))
        best = max(searched, key=lambda e: (_score(e), -e.trial.number), default=None)
        return None if best is None else standing(best, objective.weights, objective.whole_model), None, baselines
    measured = Measured(recorded_objective(study) or objective_of_study(study), scored)
    if objective.pareto:
        return None, measured.front(), [replace(baseline, score=None) for baseline in baselines]
    baselines.sort(key=lambda s: (-(s.score or 0.0), s.number))
    best = measured.best()
    if best is None:
        return None, None, baselines
    own = standing(best, objective.weights, objective.whole_model)
    return replace(own, gains=measured.gains(best)), None, baselines


def leading(baselines: Iterable[Standing]) -> list[Standing]:
    """The best of every family of baselines ("parent:...", "task_arithmetic:...", "uniform"), best first.

    Without scores all of them.
    """
    best: dict[str, tuple[float, Standing]] = {}
    listed = list(baselines)
    for baseline in listed:
        family = baseline.label.partition(":")[0]
        if baseline.score is not None and (family not in best or baseline.score > best[family][0]):
            best[family] = baseline.score, baseline
    ranked = sorted(best.values(), key=lambda pair: (-pair[0], pair[1].number))
    return [baseline for _, baseline in ranked] or listed


def standing(entry: Entry, task_weights: Mapping[str, float], whole_model: Collection[str] = ()) -> Standing:
    """What a scored entry reached. Raises ValueError for an entry without losses."""
    if entry.outcome is None:
        raise ValueError(f"Trial {entry.trial.number} has no outcome.")
    scores = {task: entry.outcome.scores[task] for task in task_weights}
    # The standard error does not depend on which tasks count downwards.
    objective = Objective(task_weights, whole_model=frozenset(whole_model))
    error = estimate(Yardstick(objective).contributions(scores)).standard_error
    means = {task: score.mean for task, score in scores.items()}
    losses = np.array(entry.losses or ())
    score = -float(losses @ objective.shares) if len(losses) == len(objective.shares) else _score(entry)
    return Standing(entry.trial.label, entry.trial.number, score, error, means)


def weights(configuration: Mapping[str, Any]) -> dict[str, float]:
    """Task -> weight in the objective, from the configuration that a study keeps."""
    return dict(configured_objective(configuration).weights)


def standing_to_dict(standing: Standing) -> dict[str, Any]:
    """Plain data, for JSON; an unknown standard error is null."""
    interval = standing.interval
    data = {
        "label": standing.label,
        "number": standing.number,
        "score": standing.score,
        "standard_error": None if interval is None else standing.error,
        "interval": None if interval is None else list(interval),
        "tasks": dict(standing.tasks),
    }
    return data | ({"ahead_of_best_parent": dict(standing.gains)} if standing.gains else {})


def _score(entry: Entry) -> float:
    if entry.losses is None:
        raise ValueError(f"Trial {entry.trial.number} has no losses.")
    return Objective.score_of(entry.losses)


def _stages(study: Study, slots: int) -> dict[str, float]:
    stages: dict[str, float] = {}
    for entry in study.told:
        for stage, seconds in (entry.outcome.seconds if entry.outcome else {}).items():
            stages[stage] = stages.get(stage, 0.0) + seconds
    if slots:
        stages[WAITING] = max(0.0, study.active_seconds * slots - sum(stages.values()))
    return stages
