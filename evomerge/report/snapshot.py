"""Snapshot: where a search stands, read off its study; what the live table, `status` and JSON lines show."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import Any

from evomerge.budget import is_candidate
from evomerge.objective import Objective
from evomerge.objective.score import DisplayScore
from evomerge.results.measured import Measured, MeasuredFront
from evomerge.results.ranking import Ranking
from evomerge.run import Run
from evomerge.statistics import Estimate
from evomerge.study import Entry, Study
from evomerge.trial import family_of

#: Time of workers that no trial used: waiting for a candidate, starting up.
WAITING = "waiting"


@dataclass(frozen=True)
class SearchScore:
    """What a model scored on the search split, larger is better. tasks: the mean of each.

    estimate is None where every task is an objective by itself. gains: by task, how far it is ahead of the best parent;
    empty where the search does not ask for that, or the parents are not scored yet. decisive: what decides instead of
    the score, see `Objective.decisive`.
    """

    label: str
    number: int
    estimate: Estimate | None
    tasks: Mapping[str, float]
    gains: Mapping[str, float] = field(default_factory=dict)
    decisive: Mapping[str, float] = field(default_factory=dict)

    @property
    def merit(self) -> float | None:
        """What the search improves: what decides, else the score."""
        return next(iter(self.decisive.values()), self.score)

    @property
    def score(self) -> float | None:
        """The score without its doubt."""
        return None if self.estimate is None else self.estimate.mean


@dataclass(frozen=True)
class Snapshot:
    """A search at one moment.

    told: candidates with an outcome. trials: how many the budget allows, None without such a limit.
    seconds: running time over all sessions; left: estimate until the budget is spent, None while unknown.
    best: the merge that the objective likes most, candidate or baseline; searched: the best candidate. A Pareto search
    has a front instead.
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
    best: SearchScore | None = None
    searched: SearchScore | None = None
    front: MeasuredFront | None = None
    baselines: tuple[SearchScore, ...] = ()
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
            "best": None if self.best is None else search_score_to_dict(self.best),
            "best_candidate": None if self.searched is None else search_score_to_dict(self.searched),
            "front": None if self.front is None else self.front.as_dict(),
            "baselines": [search_score_to_dict(baseline) for baseline in self.baselines],
            "failures": dict(self.failures),
            "stages": {stage: round(seconds, 3) for stage, seconds in self.stages.items()},
        }


def take(
    run: Run,
    *,
    trials: int | None = None,
    phase: str = "search",
    busy: int = 0,
    slots: int = 0,
    left: float | None = None,
) -> Snapshot:
    """The state of a run now. trials, phase, busy, slots, left: what only the driver knows."""
    study = run.study
    told = [entry for entry in study.told if is_candidate(entry.trial)]
    scored = [entry for entry in told if entry.losses is not None]
    compared = _compare(run, scored) if scored else _Compared()
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
        best=compared.best,
        searched=compared.searched,
        front=compared.front,
        baselines=compared.baselines,
        failures=dict(sorted(failures.items())),
        stages=stages_of(study, slots),
    )


@dataclass(frozen=True)
class _Compared:
    """best: of candidates and baselines that are merges. searched: the best candidate. front: of a Pareto search."""

    best: SearchScore | None = None
    searched: SearchScore | None = None
    front: MeasuredFront | None = None
    baselines: tuple[SearchScore, ...] = ()


def _compare(run: Run, scored: list[Entry]) -> _Compared:
    """What leads, and the baselines, best first where they have a score."""
    objective = run.objective
    baselines = [entry for entry in scored if entry.trial.merge is not None]
    if objective.pareto:
        plain = tuple(replace(search_score(entry, objective), estimate=None) for entry in baselines)
        return _Compared(front=Measured(objective, scored).front(), baselines=plain)
    ranking = Ranking(run.study, objective, "search")

    def seen(entry: Entry) -> SearchScore:
        return replace(search_score(entry, objective, ranking.display_score), decisive=ranking.decisive(entry))

    def ahead(best: Entry | None) -> SearchScore | None:
        gains = {} if best is None or not objective.needs_parents else ranking.gains(best)
        return None if best is None else replace(seen(best), gains=gains)

    ranked = tuple(map(seen, sorted(baselines, key=ranking.key)))
    return _Compared(ahead(ranking.best()), ahead(ranking.best(searched=True)), None, ranked)


def leading(baselines: Iterable[SearchScore]) -> list[SearchScore]:
    """The best of every family of baselines (parents, task arithmetic, the uniform average), best first.

    Without scores all of them.
    """
    best: dict[str, tuple[float, SearchScore]] = {}
    listed = list(baselines)
    for baseline in listed:
        family = family_of(baseline.label)
        if baseline.merit is not None and (family not in best or baseline.merit > best[family][0]):
            best[family] = baseline.merit, baseline
    ranked = sorted(best.values(), key=lambda pair: (-pair[0], pair[1].number))
    return [baseline for _, baseline in ranked] or listed


def search_score(entry: Entry, objective: Objective, stick: DisplayScore | None = None) -> SearchScore:
    """What a scored entry reached, by a yardstick or else in the tasks' own units.

    Raises ValueError for an entry without scores.
    """
    if entry.outcome is None or entry.losses is None:
        raise ValueError(f"Trial {entry.trial.number} has no scores.")
    scores = entry.outcome.scores
    tasks = {task: scores[task].mean for task in objective.weights}
    return SearchScore(
        entry.trial.label, entry.trial.number, (stick or DisplayScore(objective)).estimate(scores), tasks
    )


def search_score_to_dict(found: SearchScore) -> dict[str, Any]:
    """Plain data, for JSON; an unknown standard error is null."""
    known = found.estimate if found.estimate is not None and isfinite(found.estimate.half_width) else None
    data = {
        "label": found.label,
        "number": found.number,
        "score": found.score,
        "standard_error": None if known is None else known.standard_error,
        "interval": None if known is None else list(known.interval),
        "tasks": dict(found.tasks),
    }
    data |= {"decisive": dict(found.decisive)} if found.decisive else {}
    return data | ({"ahead_of_best_parent": dict(found.gains)} if found.gains else {})


def stages_of(study: Study, slots: int) -> dict[str, float]:
    """Stage -> seconds of workers; `waiting` is what is left of the time of so many slots, 0: not told."""
    stages: dict[str, float] = {}
    for entry in study.told:
        for stage, seconds in (entry.outcome.seconds if entry.outcome else {}).items():
            stages[stage] = stages.get(stage, 0.0) + seconds
    if slots:
        stages[WAITING] = max(0.0, study.active_seconds * slots - sum(stages.values()))
    return stages
