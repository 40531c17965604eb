"""Snapshot: where a search stands, read off its study; what the live table, `status` and JSON lines show."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from evomerge.budget import is_candidate
from evomerge.objective import Objective
from evomerge.statistics import Z95, estimate
from evomerge.study import Entry, Study

#: Time of workers that no trial used: waiting for a candidate, starting up.
WAITING = "waiting"


@dataclass(frozen=True)
class Standing:
    """A model's score on the search split, larger is better. error: standard error. tasks: mean of each."""

    label: str
    number: int
    score: float
    error: float
    tasks: Mapping[str, float]

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval."""
        return self.score - Z95 * self.error, self.score + Z95 * self.error


@dataclass(frozen=True)
class Snapshot:
    """A search at one moment.

    told: candidates with an outcome. trials: how many the budget allows, None without such a limit.
    seconds: running time over all sessions; left: estimate until the budget is spent, None while unknown.
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
    shares = weights(study.configuration)
    told = [entry for entry in study.told if is_candidate(entry.trial)]
    scored = [entry for entry in told if entry.losses is not None]
    searched = [entry for entry in scored if entry.trial.merge is None]
    best = max(searched, key=lambda e: (_score(e), -e.trial.number), default=None)
    baselines = [standing(entry, shares) for entry in scored if entry.trial.merge is not None]
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
        best=None if best is None else standing(best, shares),
        baselines=tuple(sorted(baselines, key=lambda s: (-s.score, s.number))),
        failures=dict(sorted(failures.items())),
        stages=_stages(study, slots),
    )


def leading(baselines: Iterable[Standing]) -> list[Standing]:
    """The best of every family of baselines ("parent:...", "task_arithmetic:...", "uniform"), best first."""
    best: dict[str, Standing] = {}
    for baseline in baselines:
        family = baseline.label.partition(":")[0]
        if family not in best or baseline.score > best[family].score:
            best[family] = baseline
    return sorted(best.values(), key=lambda s: (-s.score, s.number))


def standing(entry: Entry, task_weights: Mapping[str, float]) -> Standing:
    """What a scored entry reached. Raises ValueError for an entry without losses."""
    if entry.outcome is None:
        raise ValueError(f"Trial {entry.trial.number} has no outcome.")
    scores = {task: entry.outcome.scores[task] for task in task_weights}
    # The standard error does not depend on which tasks count downwards.
    error = estimate(Objective(task_weights).contributions(scores)).standard_error
    means = {task: score.mean for task, score in scores.items()}
    return Standing(entry.trial.label, entry.trial.number, _score(entry), error, means)


def weights(configuration: Mapping[str, Any]) -> dict[str, float]:
    """Task -> weight in the objective, from the configuration that a study keeps."""
    given = configuration.get("objective")
    tasks = configuration.get("tasks", {})
    return {task: float(given[task]) if isinstance(given, Mapping) else 1.0 for task in tasks}


def standing_to_dict(standing: Standing) -> dict[str, Any]:
    """Plain data, for JSON; an unknown standard error is null."""
    known = standing.error < float("inf")
    return {
        "label": standing.label,
        "number": standing.number,
        "score": standing.score,
        "standard_error": standing.error if known else None,
        "interval": list(standing.interval) if known else None,
        "tasks": dict(standing.tasks),
    }


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
