"""The loop. Read this file first.

    optimizer.ask -> study records the ask -> executor runs the trial -> study records the tell -> optimizer.tell

The ask is durable before it is submitted and the tell before the optimizer sees it: the ledger is always ahead
of memory, a crash loses at most running work, and a resumed search proposes what an uninterrupted one would have.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from evomerge.aim import record_objective
from evomerge.budget import Budget
from evomerge.execution.base import Executor
from evomerge.lessons import Lessons
from evomerge.objective import NonFiniteScore, Objective
from evomerge.optimizers.base import Optimizer
from evomerge.records import CANARY, Failure, Outcome, Trial, is_parent
from evomerge.study import Entry, Study

#: So many failures of the same kind in a row are the system's fault, not the candidates'.
SAME_FAILURES = 5
#: How long to wait for an outcome before looking at the clock and at Ctrl-C again, in seconds.
PATIENCE = 0.5


@dataclass
class StopRequest:
    """Set from a signal handler. level 1: ask no more, let running trials finish; 2: leave at once.

    waiting: while an outcome is waited for, nothing is half written and the handler may raise KeyboardInterrupt.
    """

    level: int = 0
    signal: int = 0
    waiting: bool = False


@dataclass(frozen=True)
class Ending:
    """Why a search returned: its budget was spent, it was stopped, or a fault paused it (with the diagnosis)."""

    kind: Literal["done", "stopped", "paused"]
    message: str = ""
    signal: int = 0


@dataclass(frozen=True)
class Progress:
    """What a search tells its viewer after each step. `outcome` is the trial that just ended, if one did."""

    study: Study
    busy: int
    slots: int
    budget: Budget
    phase: str = "search"
    outcome: Outcome | None = None


@dataclass
class _Failures:
    """The failures since this session began, to tell a bad candidate from a broken system."""

    row: list[Failure] = field(default_factory=list)

    def note(self, failure: Failure | None) -> str | None:
        """The diagnosis when the same kind has failed SAME_FAILURES times in a row."""
        if failure is None:
            self.row.clear()
            return None
        if self.row and self.row[-1].kind != failure.kind:
            self.row.clear()
        self.row.append(failure)
        if len(self.row) < SAME_FAILURES:
            return None
        return f"{len(self.row)} failures in a row of the same kind, {failure.kind}: {failure.message}"


def search(
    study: Study,
    optimizer: Optimizer,
    executor: Executor,
    objective: Objective,
    planned: Sequence[Trial],
    budget: Budget,
    *,
    seed: int = 0,
    stop: StopRequest | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
) -> Ending:
    """Run or go on with a search until its budget is spent.

    planned: the trials before the optimizer's own (canary, start, baselines), told apart by their labels; those
    that the study has are not run again. seed: of the masks of random methods, one for all candidates.
    """
    lessons = Lessons(optimizer, objective, {trial.label for trial in planned if is_parent(trial.label)})
    for entry in study.told:
        lessons.take(entry)
    asked = {entry.trial.label for entry in study.entries.values() if not _failed_canary(entry)}
    waiting = deque(trial for trial in planned if trial.label not in asked)

    def next_trial() -> Trial | None:
        if budget.spent(study):
            return None
        number = study.next_number
        if waiting:
            return replace(waiting.popleft(), number=number)
        pending = {t.number: t.x for t in study.pending if t.split == "search" and t.x is not None}
        if lessons.waiting or not optimizer.wants(pending):
            return None
        return Trial(number, optimizer.ask(number, pending).x, seed=seed)

    if lessons.problem:
        return Ending("paused", lessons.problem)
    return _drive(study, executor, objective, next_trial, lessons.take, Driving(budget, stop, progress))


def score_all(
    study: Study,
    executor: Executor,
    objective: Objective,
    trials: Iterable[Trial],
    *,
    phase: str,
    stop: StopRequest | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
) -> Ending:
    """Score given trials, those that the study has not got yet; told apart by (label, split)."""
    asked = {(entry.trial.label, entry.trial.split) for entry in study.entries.values()}
    waiting = deque(t for t in trials if (t.label, t.split) not in asked)

    def next_trial() -> Trial | None:
        return replace(waiting.popleft(), number=study.next_number) if waiting else None

    driving = Driving(Budget(), stop, progress, phase)
    return _drive(study, executor, objective, next_trial, lambda _entry: None, driving)


@dataclass(frozen=True)
class Driving:
    """What a drive needs besides its parts: limits, the way to stop it, and whom to tell."""

    budget: Budget
    stop: StopRequest | None
    progress: Callable[[Progress], None]
    phase: str = "search"


def _drive(
    study: Study,
    executor: Executor,
    objective: Objective,
    next_trial: Callable[[], Trial | None],
    on_tell: Callable[[Entry], str | None],
    driving: Driving,
) -> Ending:
    """next_trial: None where there is nothing to ask for before a trial has ended. on_tell: why to pause, if so."""
    record_objective(study, objective)
    stop = driving.stop or StopRequest()
    again = deque(study.pending)  # asked before a crash, never told: the same candidates, once more
    running: dict[int, Trial] = {}
    failures = _Failures()
    paused: str | None = None
    exhausted = False
    while True:
        while not (exhausted or paused or stop.level) and len(running) < executor.slots and not _alone(running):
            trial = again.popleft() if again else next_trial()
            if trial is None:
                exhausted = not running
                break
            if trial.number not in study.entries:
                study.ask(trial)
            running[trial.number] = trial
            executor.submit(trial)
            driving.progress(Progress(study, len(running), executor.slots, driving.budget, driving.phase))
        if stop.level > 1 or (not running and (exhausted or paused or stop.level)):
            break
        outcome = _wait(executor, stop)
        if outcome is not None:
            outcome, losses = _judge(objective, outcome)
            trial = running.pop(outcome.number)
            if study.tell(outcome, losses):
                paused = paused or on_tell(study.entries[trial.number])
            paused = paused or _fault(trial, outcome, failures)
        driving.progress(Progress(study, len(running), executor.slots, driving.budget, driving.phase, outcome))
    if paused:
        study.event("paused", reason=paused)
        return Ending("paused", paused)
    if stop.level:
        study.event("stopped", level=stop.level)
        # A drained search was stopped early; one that left at once was ended by its signal.
        return Ending("stopped", signal=stop.signal if stop.level > 1 else 0)
    return Ending("done")


def _wait(executor: Executor, stop: StopRequest) -> Outcome | None:
    """The next outcome; None when there is none yet, and when a signal says to leave at once."""
    stop.waiting = True
    try:
        return executor.next_outcome(timeout=PATIENCE)
    except KeyboardInterrupt:
        return None
    finally:
        stop.waiting = False


def _alone(running: dict[int, Trial]) -> bool:
    # Nothing is worth starting before the canary has shown that coefficients do anything.
    return any(trial.label == CANARY for trial in running.values())


def _fault(trial: Trial, outcome: Outcome, failures: _Failures) -> str | None:
    if trial.label == CANARY and outcome.failure is not None:
        return f"the canary, which tries whether coefficients change anything, failed: {outcome.failure.message}"
    return failures.note(outcome.failure)


def _judge(objective: Objective, outcome: Outcome) -> tuple[Outcome, list[float] | None]:
    """Losses of an outcome; a score that is no number turns it into a failure."""
    if outcome.failure is not None:
        return outcome, None
    try:
        return outcome, [float(loss) for loss in objective.losses(outcome.scores)]
    except NonFiniteScore as error:
        return replace(outcome, failure=Failure("nonfinite", str(error))), None


def _failed_canary(entry: Entry) -> bool:
    return entry.trial.label == CANARY and entry.outcome is not None and entry.outcome.failure is not None
