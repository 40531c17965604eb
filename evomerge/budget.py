"""How much a search may spend, what it has spent, and how long that leaves."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from evomerge.study import Entry, Study
from evomerge.trial import Origin, Trial

#: How many of the last candidates tell the pace: machines get faster and slower in a night.
RECENT = 20


@dataclass(frozen=True)
class Budget:
    """When to stop asking: candidates of the study, hours of running over all its sessions, a wall-clock time.

    Hours and the time are for the whole study, with the selection after the search. now: the wall clock, in seconds.
    """

    trials: int | None = None
    hours: float | None = None
    until: datetime | None = None
    now: Callable[[], float] = time.time

    def spent(self, study: Study, reserve: Callable[[], float] = lambda: 0.0) -> bool:
        """Whether no further candidate may be asked for. reserve: seconds to keep for what comes after it."""
        if self.trials is not None and candidates(study) >= self.trials:
            return True
        limit = self.seconds(study)
        return limit is not None and limit <= reserve()

    def seconds(self, study: Study) -> float | None:
        """Seconds until hours or time are over; below 0 when they are. None without such a limit."""
        limits = []
        if self.hours is not None:
            limits.append(self.hours * 3600 - study.active_seconds)
        if self.until is not None:
            limits.append(self.until.timestamp() - self.now())
        return min(limits) if limits else None


def is_candidate(trial: Trial) -> bool:
    """Whether a trial counts towards the budget: on the search split, and no canary or recommendation."""
    return trial.split == "search" and trial.origin not in (Origin.CANARY, Origin.RECOMMENDED)


def candidates(study: Study) -> int:
    """How many candidates the study has asked for."""
    return sum(is_candidate(entry.trial) for entry in study.entries.values())


def recent(study: Study) -> list[Entry]:
    """The last candidates that were really scored, in telling order: a copy of known scores takes no time."""
    done = [e for e in study.told if is_candidate(e.trial) and e.outcome is not None and e.outcome.seconds]
    return done[-RECENT:]


def stage_seconds(study: Study) -> Mapping[str, float]:
    """Stage -> seconds of a worker for one candidate, of late: "merge", "evaluate:TASK". Empty while none is known."""
    scored = [e.outcome.seconds for e in recent(study) if e.outcome is not None and e.losses is not None]
    stages = {stage for seconds in scored for stage in seconds}
    return {stage: sum(seconds.get(stage, 0.0) for seconds in scored) / len(scored) for stage in sorted(stages)}


def seconds_left(study: Study, budget: Budget, reserve: Callable[[], float] = lambda: 0.0) -> float | None:
    """Estimated seconds until the study is done, from the recent pace; None while nothing is known.

    reserve: seconds that the selection takes after the search.
    """
    limits = []
    pace = _pace(study)
    done = sum(e.outcome is not None and is_candidate(e.trial) for e in study.entries.values())
    if budget.trials is not None and pace is not None:
        limits.append((budget.trials - done) * pace + reserve())
    limit = budget.seconds(study)
    if limit is not None:
        limits.append(limit)
    return max(0.0, min(limits)) if limits else None


def _pace(study: Study) -> float | None:
    """Seconds between the ends of candidates, of late."""
    ends = [entry.active for entry in recent(study) if entry.active is not None]
    if len(ends) < 2:
        return study.active_seconds / len(ends) if ends else None
    return (ends[-1] - ends[0]) / (len(ends) - 1)
