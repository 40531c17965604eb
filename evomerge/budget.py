"""How much a search may spend, what it has spent, and how long that leaves."""

import time
from dataclasses import dataclass
from datetime import datetime

from evomerge.records import CANARY, Trial
from evomerge.study import Study

#: Label of the point that an optimizer recommends beyond what was measured; scored after the search.
RECOMMENDED = "recommended"


@dataclass(frozen=True)
class Budget:
    """When to stop asking: candidates of the study, hours of running over all its sessions, a wall-clock time."""

    trials: int | None = None
    hours: float | None = None
    until: datetime | None = None

    def spent(self, study: Study) -> bool:
        """Whether no further candidate may be asked for."""
        return (
            (self.trials is not None and candidates(study) >= self.trials)
            or (self.hours is not None and study.active_seconds >= self.hours * 3600)
            or (self.until is not None and datetime.now(tz=self.until.tzinfo) >= self.until)
        )


def is_candidate(trial: Trial) -> bool:
    """Whether a trial counts towards the budget: on the search split, and no canary or recommendation."""
    return trial.split == "search" and trial.label != CANARY and not trial.label.startswith(RECOMMENDED)


def candidates(study: Study) -> int:
    """How many candidates the study has asked for."""
    return sum(is_candidate(entry.trial) for entry in study.entries.values())


def seconds_left(study: Study, budget: Budget) -> float | None:
    """Estimated seconds until the budget is spent, from the pace so far; None while nothing is known."""
    limits = []
    done = sum(e.outcome is not None and is_candidate(e.trial) for e in study.entries.values())
    if budget.trials is not None and done:
        limits.append((budget.trials - done) * study.active_seconds / done)
    if budget.hours is not None:
        limits.append(budget.hours * 3600 - study.active_seconds)
    if budget.until is not None:
        limits.append(budget.until.timestamp() - time.time())
    return max(0.0, min(limits)) if limits else None
