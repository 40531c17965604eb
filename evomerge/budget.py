"""Limits of a search, what it has spent, and an estimate of the time left."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from evomerge.study import Entry, Study

#: Number of recent candidates that determine the pace, since the speed of machines changes over time.
RECENT = 20
#: Many shares of an evaluation add up to a whole one only up to rounding.
_ROUNDING, _DIGITS = 1e-9, 9


@dataclass(frozen=True)
class Budget:
    """The limits of a search: candidates, hours of run time over all sessions, and a wall-clock deadline.

    Trials that score only some examples count with their share, and a gradient counts three times: `trials` limits the
    work, in evaluations of the whole search split. Hours and deadline include the selection after the search.
    now: returns wall-clock seconds.
    """

    trials: int | None = None
    hours: float | None = None
    until: datetime | None = None
    now: Callable[[], float] = time.time

    def spent(self, study: Study, reserve: Callable[[], float] = lambda: 0.0) -> bool:
        """Return whether the search must stop asking. reserve: seconds to keep for the selection afterwards."""
        if self.trials is not None and evaluations(study) >= self.trials - _ROUNDING:
            return True
        limit = self.seconds(study)
        return limit is not None and limit <= reserve()

    def seconds(self, study: Study) -> float | None:
        """Return the seconds left by hours and deadline, negative if exceeded; None without such a limit."""
        limits = []
        if self.hours is not None:
            limits.append(self.hours * 3600 - study.active_seconds)
        if self.until is not None:
            limits.append(self.until.timestamp() - self.now())
        return min(limits) if limits else None


def candidates(study: Study) -> int:
    """Return the number of trials that the budget counts so far, those included that are pending."""
    return sum(entry.trial.counts for entry in study.entries.values())


def evaluations(study: Study) -> float:
    """Return what the search has asked for, in evaluations of the whole search split."""
    return study.cost


@dataclass(frozen=True)
class Spending:
    """Amount of work of the trials that have ended.

    evaluations: of the whole search split; an example counts with its share, a gradient three times. gradient_steps:
    number of gradients. on_part: candidates that were scored on some of the examples and not on all of them.
    """

    evaluations: float = 0.0
    gradient_steps: int = 0
    on_part: int = 0


def spending(study: Study) -> Spending:
    """Return what a search has spent so far."""
    ended = [entry.trial for entry in study.ended if entry.trial.counts]
    partial = [trial for trial in ended if trial.is_part or trial.extends is not None]
    begun = sum(trial.is_part and trial.extends is None and trial.gradient is None for trial in partial)
    in_full = sum(not trial.is_part for trial in partial)
    return Spending(
        evaluations=round(sum(trial.cost for trial in ended), _DIGITS),
        gradient_steps=sum(trial.gradient is not None for trial in partial),
        on_part=begun - in_full,
    )


def spent_of(study: Study, trials: int | None) -> str:
    """Return `15 of 40 trials`, and `12.4 of 40 evaluations` where some trials are parts. trials: of the budget."""
    spent, unit = (f"{spending(study).evaluations:.1f}", "evaluations") if study.parts else (study.completed, "trials")
    return f"{spent} {unit}" if trials is None else f"{spent} of {trials} {unit}"


def recent(study: Study) -> list[Entry]:
    """Return the last trials that were actually run, in order; copies of known scores take no time."""
    done = [e for e in study.ended if e.trial.counts and e.outcome is not None and e.outcome.seconds]
    return done[-RECENT:]


def stage_seconds(study: Study) -> Mapping[str, float]:
    """Return recent worker seconds per candidate by stage: "merge", "evaluate:TASK". Empty while unknown."""
    done = [e for e in study.told if e.trial.counts and e.trial.extends is None and e.losses is not None]
    scored = [e.outcome.seconds for e in done if e.outcome is not None and e.outcome.seconds][-RECENT:]
    stages = {stage for seconds in scored for stage in seconds}
    return {stage: sum(seconds.get(stage, 0.0) for seconds in scored) / len(scored) for stage in sorted(stages)}


def seconds_left(
    study: Study,
    budget: Budget,
    reserve: Callable[[], float] = lambda: 0.0,
    needed: float | None = None,
) -> float | None:
    """Estimate the seconds until the study is done from the recent pace; None while it is unknown.

    reserve: seconds that the selection takes after the search. needed: evaluations after which the search ends by
    itself; None where only the budget ends it.
    """
    limits = []
    seconds = pace(study)
    wanted = [needed] if needed is not None else []
    if budget.trials is not None:
        wanted.append(budget.trials - spending(study).evaluations)
    if wanted and seconds is not None:
        limits.append(min(wanted) * seconds + reserve())
    limit = budget.seconds(study)
    if limit is not None:
        limits.append(limit)
    return max(0.0, min(limits)) if limits else None


def pace(study: Study) -> float | None:
    """Return the recent seconds per evaluation of the whole search split; None while it is unknown."""
    ends = [(entry.active, entry.trial.cost) for entry in recent(study) if entry.active is not None]
    if len(ends) < 2:
        return study.active_seconds / ends[0][1] if ends else None
    return (ends[-1][0] - ends[0][0]) / sum(cost for _, cost in ends[1:])
