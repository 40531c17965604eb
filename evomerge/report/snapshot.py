"""Snapshot of a search, computed from its study, for the live table, `status` and JSON lines."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from evomerge.budget import Spending, spending
from evomerge.loop import decisions
from evomerge.results.as_json import estimate_to_dict, search_front_to_dict, so_far_to_dict
from evomerge.results.progress import SearchFront, search_front
from evomerge.results.ranking import Ranking, best, ranked
from evomerge.results.scored import ScoredModel
from evomerge.run import Run
from evomerge.statistics import Difference
from evomerge.study import Study

#: Time of workers that no trial used: waiting for a candidate, starting up.
WAITING = "waiting"


@dataclass(frozen=True)
class Snapshot:
    """State of a search at one moment.

    told: candidates with an outcome. trials: how many evaluations the budget allows, None without such a limit.
    numbered: how many trials have a number, also those that do not count.
    spending: what was spent in evaluations, where some trials are parts of candidates.
    seconds: running time over all sessions; left: estimate until the budget is spent, None while unknown.
    best: the merge that the objective likes most, candidate or baseline. A Pareto search has a front instead.
    stages: stage -> seconds of workers ("merge", "evaluate:TASK", "waiting"). failures: kind -> count. outlook: what
    comes next.
    """

    study: str
    told: int
    trials: int | None = None
    numbered: int = 0
    phase: str = "search"
    busy: int = 0
    slots: int = 0
    seconds: float = 0.0
    left: float | None = None
    best: ScoredModel | None = None
    best_candidate: ScoredModel | None = None
    front: SearchFront | None = None
    baselines: tuple[ScoredModel, ...] = ()
    failures: Mapping[str, int] = field(default_factory=dict)
    stages: Mapping[str, float] = field(default_factory=dict)
    spending: Spending = field(default_factory=Spending)
    decisions: tuple[str, ...] = ()
    outlook: str = ""

    @property
    def gain(self) -> tuple[ScoredModel, Difference] | None:
        """The best parent, and the paired lead of the best merge over its score; None without one of the two."""
        parent = best(baseline for baseline in self.baselines if baseline.is_parent)
        if self.best is None or parent is None:
            return None
        return parent, self.best.reference.display.difference(self.best.scores, parent.scores)

    @property
    def better_baselines(self) -> int | None:
        """Number of baselines, parents included, that are better than the best merge; None without a merge."""
        return None if self.best is None else sum(baseline.order < self.best.order for baseline in self.baselines)

    @property
    def has_parts(self) -> bool:
        """Whether some trials scored only some of the examples, or asked for a gradient."""
        return self.spending.gradient_steps > 0 or self.spending.on_part > 0

    def as_dict(self) -> dict[str, Any]:
        """Return the snapshot as plain data for JSON."""
        gain = self.gain
        return {
            "study": self.study,
            "phase": self.phase,
            "told": self.told,
            "trials": self.trials,
            "numbered": self.numbered,
            **asdict(self.spending),
            "busy": self.busy,
            "slots": self.slots,
            "seconds": round(self.seconds, 3),
            "seconds_left": None if self.left is None else round(self.left, 3),
            "best": None if self.best is None else so_far_to_dict(self.best, gains=True),
            "best_candidate": None if self.best_candidate is None else so_far_to_dict(self.best_candidate, gains=True),
            "better_baselines": self.better_baselines,
            "gain": None if gain is None else {"over": gain[0].label, **_without_p(gain[1])},
            "front": None if self.front is None else search_front_to_dict(self.front),
            "baselines": [so_far_to_dict(baseline) for baseline in self.baselines],
            "failures": dict(self.failures),
            "stages": {stage: round(seconds, 3) for stage, seconds in self.stages.items()},
            "decisions": list(self.decisions),
        }


def _without_p(gain: Difference) -> dict[str, Any]:
    """Convert the lead of the best of many, for which a p-value would claim too much."""
    return {key: value for key, value in estimate_to_dict(gain).items() if key != "p"}


def take(
    run: Run,
    *,
    trials: int | None = None,
    phase: str = "search",
    busy: int = 0,
    slots: int = 0,
    left: float | None = None,
    outlook: str = "",
) -> Snapshot:
    """Return the current state of a run. trials, phase, busy, slots, left, outlook: known to the driver only."""
    study = run.study
    counted = [entry for entry in study.told if entry.trial.counts]
    ranking = Ranking(study, run.objective, "search") if any(e.losses is not None for e in counted) else None
    failures = Counter(e.outcome.failure.kind for e in study.ended if e.outcome and e.outcome.failure)
    return Snapshot(
        study=str(study.folder),
        told=len(counted),
        trials=trials,
        numbered=study.next_number,
        phase=phase,
        busy=busy,
        slots=slots,
        seconds=study.active_seconds,
        left=left,
        **({} if ranking is None else _so_far(ranking)),
        failures=dict(sorted(failures.items())),
        stages=stages_of(study, slots),
        spending=spending(study),
        decisions=decisions(study),
        outlook=outlook,
    )


def _so_far(ranking: Ranking) -> dict[str, Any]:
    """Return the best models or the front, and the baselines, best first if they have one score."""
    baselines = ranking.baselines
    if ranking.objective.pareto:
        return {"front": search_front(ranking.models), "baselines": tuple(baselines)}
    return {
        "best": ranking.best_merge,
        "best_candidate": ranking.best_candidate,
        "baselines": tuple(ranked(baselines)),
    }


def stages_of(study: Study, slots: int) -> dict[str, float]:
    """Return stage -> seconds of workers. slots: number of workers whose remaining time is `waiting`; 0 for unknown."""
    stages = defaultdict[str, float](float)
    for entry in study.ended:
        for stage, seconds in (entry.outcome.seconds if entry.outcome else {}).items():
            stages[stage] += seconds
    if slots:
        stages[WAITING] = max(0.0, study.active_seconds * slots - sum(stages.values()))
    return stages
