"""The loop. Read this file first.

    optimizer.ask -> study records the ask -> executor runs the trial -> study records the tell -> optimizer.tell

The ask is durable before it is submitted and the tell before the optimizer sees it: the ledger is always ahead
of memory, a crash loses at most running work, and a resumed search proposes what an uninterrupted one would have.
With many workers, all trials that have ended are recorded at once, and so are proposals: the disk is waited for once
for each of the two, and only then are they acted on. Some proposals are then recorded ahead, so that a worker that
becomes free goes on at once, while its outcome is recorded and learned from.
"""

import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from evomerge.budget import Budget
from evomerge.execution.base import Executor, ExecutorError
from evomerge.failures import Diagnosis, Failures, diagnose, failed_on, failure_of, forgiven, short_of_memory
from evomerge.feedback import Feedback, compared_with
from evomerge.objective import NonFiniteScore, Objective
from evomerge.objective.spec import record_objective
from evomerge.optimizers._threads import on_one_thread
from evomerge.optimizers.base import Exhausted, FloatArray, Optimizer
from evomerge.racing import Race
from evomerge.search_examples import SearchExamples
from evomerge.study import Entry, Study
from evomerge.trial import BATCH_TOKENS, CANARY, Failure, Origin, Outcome, Trial

#: Event of a trial that was not run: it is the same model as an earlier one.
SAME_MODEL = "same_model"
#: Event of a trial that was not run: an earlier study, from which this one learned, has scored the model.
REUSED = "reused"
#: Event of a decision of the optimizer, with its reason.
DECIDED = "decided"
#: How long to wait for an outcome before looking at the clock and at Ctrl-C again, in seconds.
PATIENCE = 0.5
#: How long a proposal may wait for others that are recorded with it, in seconds.
TOGETHER = 0.02
#: Workers per proposal that is made ahead. Such a proposal lacks the results of the trials that run meanwhile: that is
#: little next to what all the other running trials will tell, and too much for a few workers, which have none ahead.
PER_SPARE = 8


@dataclass
class StopRequest:
    """Stop request, set by a signal handler. level 1: submit nothing new, let running trials finish; 2: stop at once.

    waiting: while an outcome is waited for, nothing is half written and the handler may raise KeyboardInterrupt.
    starting: before the workers run; nothing has to finish then, and every signal leaves at once.
    asking: a person is asked whether to stop; at level 1, the search waits for the answer.
    finish: propose nothing more, whatever is left of the budget; candidates that have begun are scored.
    """

    level: int = 0
    signal: int = 0
    waiting: bool = False
    starting: bool = False
    asking: bool = False
    finish: bool = False


@dataclass(frozen=True)
class Ending:
    """The reason why a search returned: budget spent, stopped, or paused by a fault (with the diagnosis)."""

    kind: Literal["done", "stopped", "paused"]
    message: str = ""
    signal: int = 0


@dataclass(frozen=True)
class Progress:
    """State of a search, passed to its viewer after each step.

    outcome: the trial that just ended, if one did. reserve: seconds that the selection takes after the search.
    needed: evaluations after which the search ends by itself, None where only the budget ends it. planned: trials that
    come before the optimizer's own ones and have not begun.
    """

    study: Study
    busy: int
    slots: int
    budget: Budget
    phase: str = "search"
    outcome: Outcome | None = None
    reserve: Callable[[], float] = lambda: 0.0
    needed: float | None = None
    planned: int = 0


def never(trial: Trial) -> None:
    """Return no key: no two trials are known to be the same model."""


def search(
    study: Study,
    optimizer: Optimizer,
    executor: Executor,
    objective: Objective,
    planned: Sequence[Trial],
    budget: Budget,
    *,
    seed: int = 0,
    same: Callable[[Trial], Hashable | None] = never,
    reserve: Callable[[], float] = lambda: 0.0,
    stop: StopRequest | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
    examples: SearchExamples | None = None,
    race: Race | None = None,
) -> Ending:
    """Run or resume a search until its budget is spent.

    planned: the trials before the optimizer's own (canary, start, baselines), told apart by their labels; those
    that the study has are not run again. seed: of the masks of random methods, one for all candidates.
    same: equal for trials that are the same model; the second of them gets the scores of the first.
    reserve: seconds of a budget of time to keep for the selection.
    examples: those of the search split, for optimizers that ask for parts of them and for races. race: whether and how
    candidates are dropped before all examples are scored.
    """
    feedback = Feedback(optimizer, objective, compared_with(objective, planned), race=race, examples=examples)
    feedback.replay(study)
    again = forgiven(study)
    asked = {e.trial.label for e in study.entries.values() if not _failed_canary(e) and e.trial.number not in again}
    extensions = _extensions(study, examples, again)
    asked |= {trial.label for trial in extensions}
    waiting = deque([*extensions, *(trial for trial in planned if trial.label not in asked)])
    stop = stop or StopRequest()

    def take(entry: Entry) -> str | None:
        problem = feedback.take(entry)
        _record_decisions(study, optimizer)
        return problem

    def next_trial() -> Trial | None:
        extends = waiting and waiting[0].extends is not None  # without these, nothing could be selected
        if not extends and (stop.finish or budget.spent(study, reserve)):
            return None
        number = study.next_number
        if waiting:
            return waiting.popleft().changed(number=number)
        if race is not None and race.waiting:
            return race.next_look(number)
        pending = _pending(study, race)
        baselines = optimizer.follows_gradients and any(trial.merge is not None for trial in study.unfinished)
        if baselines or feedback.waiting or not optimizer.wants(pending):
            return None  # gradients need the baselines' answers
        optimizer.expect(executor.slots)
        try:
            proposal = optimizer.ask(number, pending)
        except Exhausted:
            return None
        trial = Trial(number, proposal.x, seed=seed)
        if proposal.is_whole_candidate:
            return trial if race is None or proposal.unraced else race.begin(trial)
        if examples is None:
            raise ValueError("An optimizer that asks for parts of candidates needs the examples of the search split.")
        return examples.part(study, proposal, trial)

    if feedback.problem:
        return Ending("paused", feedback.problem)
    _record_decisions(study, optimizer)
    ending = _Drive(
        study,
        executor,
        objective,
        next_trial,
        take,
        Driving(budget, stop, _needing(progress, optimizer, waiting), same=same, reserve=reserve, examples=examples),
    ).run()
    failed = failed_on(study, "search")
    if ending.kind == "done" and failed and all(e.losses is None for e in study.told if e.trial.counts):
        return pause(study, diagnose("no candidate has scores", failed))
    return ending


def _extensions(study: Study, examples: SearchExamples | None, again: Collection[int]) -> list[Trial]:
    """Return the trials that score models of before on the examples that were added last, as far as not asked yet."""
    if not study.growths or examples is None:
        return []
    asked = {e.trial.extends for e in study.entries.values() if e.trial.number not in again or e.trial.merge is None}
    return [examples.extension(study, number) for number in study.growths[-1].extends if number not in asked]


def _needing(
    progress: Callable[[Progress], None], optimizer: Optimizer, waiting: Collection[Trial]
) -> Callable[[Progress], None]:
    """Return `progress` for states that say how much the search still needs. waiting: trials before the optimizer's."""

    def tell(state: Progress) -> None:
        left = optimizer.evaluations_left() if state.needed is None else None
        state = replace(state, planned=len(waiting))
        progress(state if left is None else replace(state, needed=left + len(waiting)))

    return tell


def _pending(study: Study, race: Race | None) -> dict[int, FloatArray]:
    """The points whose losses the optimizer has yet to be told, by the number under which it proposed them."""
    number = race.first_of if race is not None else lambda trial: trial.number
    asked = [trial for trial in study.unfinished if trial.split == "search"]
    pending = {number(trial): trial.x for trial in asked if trial.x is not None}
    return pending if race is None else pending | race.pending


def _record_decisions(study: Study, optimizer: Optimizer) -> None:
    """Record what the optimizer has decided since the last time, and why."""
    made = optimizer.decisions()
    recorded = sum(kind == DECIDED for kind, _ in study.events_since) if made else 0
    for text in made[recorded:]:
        study.event(DECIDED, text=text)


def decisions(study: Study) -> tuple[str, ...]:
    """Return what the optimizer has decided so far, and why."""
    return tuple(data["text"] for kind, data in study.events if kind == DECIDED)


def batch_budgets(study: Study) -> dict[str, int]:
    """Return the tokens per batch by kind of device, as first measured.

    They are recorded with the canary's outcome, before any candidate is submitted, and never change: scores depend on
    them by rounding, so a resumed study would otherwise differ from an uninterrupted one.
    """
    found: dict[str, int] = {}
    for kind, data in study.events:
        if kind == BATCH_TOKENS:
            found.setdefault(data["device"], data["tokens"])
    return found


def pause(study: Study, diagnosis: Diagnosis) -> Ending:
    """Record that a study pauses, and why."""
    study.event("paused", reason=diagnosis.reason, trace=diagnosis.trace, trials=list(diagnosis.trials))
    return Ending("paused", diagnosis.message)


def score_all(
    study: Study,
    executor: Executor,
    objective: Objective,
    trials: Iterable[Trial],
    *,
    phase: str,
    same: Callable[[Trial], Hashable | None] = never,
    stop: StopRequest | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
) -> Ending:
    """Score given trials, those that the study has not got yet; told apart by (label, split)."""
    again = forgiven(study)
    asked = {(e.trial.label, e.trial.split) for e in study.entries.values() if e.trial.number not in again}
    waiting = deque(t for t in trials if (t.label, t.split) not in asked)

    def next_trial() -> Trial | None:
        return waiting.popleft().changed(number=study.next_number) if waiting else None

    driving = Driving(Budget(), stop, progress, phase, same)
    return _Drive(study, executor, objective, next_trial, lambda _entry: None, driving).run()


@dataclass(frozen=True)
class Driving:
    """Settings of a drive: limits, stop request, progress callback, the key of equal models, the search's examples."""

    budget: Budget
    stop: StopRequest | None
    progress: Callable[[Progress], None]
    phase: str = "search"
    same: Callable[[Trial], Hashable | None] = never
    reserve: Callable[[], float] = lambda: 0.0
    examples: SearchExamples | None = None


class _Drive:
    """Keeps the executor busy until there is nothing to ask for, a fault pauses the study or a signal stops it.

    next_trial: None where there is nothing to ask for before a trial has ended. on_tell: why to pause, if so.
    """

    def __init__(
        self,
        study: Study,
        executor: Executor,
        objective: Objective,
        next_trial: Callable[[], Trial | None],
        on_tell: Callable[[Entry], str | None],
        driving: Driving,
    ) -> None:
        self._study, self._executor, self._objective = study, executor, objective
        self._next_trial, self._on_tell, self._driving = next_trial, on_tell, driving
        self._stop = driving.stop or StopRequest()
        self._again = deque(study.unfinished)  # asked before a crash, never told: the same candidates, once more
        self._spare: dict[int, Trial] = {}  # recorded ahead, to be submitted as soon as a worker is free
        self._running: dict[int, Trial] = {}
        self._origins: Counter[Origin] = Counter()  # of the running trials
        self._canaries: set[int] = set()  # not ended: nothing is asked before it is known whether coefficients matter
        self._broken: ExecutorError | None = None
        scored = [*(entry for entry in study.told if entry.losses is not None), *study.reusable]
        self._models = {driving.same(entry.trial): entry.trial.number for entry in scored}
        self._twins: dict[int, list[Trial]] = {}  # by the number of the running trial that is the same model
        self._failures = Failures()
        self._paused: Diagnosis | None = None

    def run(self) -> Ending:
        """Run until the end; return the reason."""
        record_objective(self._study, self._objective)
        try:
            self._loop()
        except ExecutorError as error:
            self._paused = self._paused or Diagnosis(str(error))
        if self._paused:
            return pause(self._study, self._paused)
        stop = self._stop
        if stop.level:
            self._study.event("stopped", level=stop.level)
            # A drained search was stopped early; one that left at once was ended by its signal.
            return Ending("stopped", signal=stop.signal if stop.level > 1 else 0)
        return Ending("done")

    def _loop(self) -> None:
        while True:
            more = self._fill()
            stopping = self._paused is not None or self._stop.level > 0
            asking = self._stop.asking and self._paused is None
            if self._stop.level > 1 or (not (self._running or asking) and (stopping or not (more or self._spare))):
                return
            if asking and not self._running:
                time.sleep(PATIENCE)  # an executor without a trial does not wait
            ended = self._ended(0.0 if more and self._may_ask() else PATIENCE)
            self._submit_spare()
            if not self._take(ended):
                self._report(None)
            if self._broken is not None:
                raise self._broken

    def _fill(self) -> bool:
        """Start trials on all free slots, or record some ahead; return whether there may be more to ask for."""
        more = True
        while more and self._may_ask():
            with self._study.batch(), on_one_thread():
                copies, more = self._ask()
            self._submit_spare()
            for trial, first in copies:
                self._take([self._copy(trial, first)])
            if self._spare:  # all workers are busy: see whether one has ended before looking further ahead
                break
        return more

    def _ask(self) -> tuple[list[tuple[Trial, int]], bool]:
        """Record trials as `_spare`, as many as are wanted and come in TOGETHER seconds; whether there may be more.

        Returns trials of a model that has scores, each with the number of that model's trial. One that is being scored
        is waited for.
        """
        begin = time.monotonic()
        while self._may_ask():
            trial = self._again.popleft() if self._again else self._next_trial()
            if trial is None:
                return [], False
            if trial.number not in self._study.entries and trial.number not in self._study.parts:
                self._study.ask(trial)
            key = None if trial.is_part else self._driving.same(trial)
            first = None if key is None else self._models.setdefault(key, trial.number)
            if first in self._running or first in self._spare:
                self._twins.setdefault(first, []).append(trial)
            elif first is not None and first != trial.number:
                return [(trial, first)], True  # told before the next one is asked for
            else:
                self._spare[trial.number] = trial
                if trial.origin is Origin.CANARY:
                    self._canaries.add(trial.number)
            if time.monotonic() - begin > TOGETHER:
                break
        return [], True

    def _may_ask(self) -> bool:
        slots = self._executor.slots
        if self._paused or self._stop.level or self._canaries:
            return False
        return len(self._running) + len(self._spare) < slots + slots // PER_SPARE

    def _submit_spare(self) -> None:
        while self._spare and not (self._paused or self._stop.level) and len(self._running) < self._executor.slots:
            self._start(self._spare.pop(next(iter(self._spare))))

    def _start(self, trial: Trial) -> None:
        """Submit a recorded trial."""
        self._running[trial.number] = trial
        self._origins[trial.origin] += 1
        examples = self._driving.examples
        trial = trial.changed(batch_tokens=batch_budgets(self._study))
        self._executor.submit(trial if examples is None else examples.dispatched(self._study, trial))
        self._report(None)

    def _ended(self, patience: float) -> list[Outcome]:
        """Wait for a trial to end; return its outcome and those of all others that have ended.

        patience: seconds to wait. The error of an executor that fails meanwhile is kept, for these are to be recorded.
        """
        ended: list[Outcome] = []
        outcome = _wait(self._executor, self._stop, patience)
        while outcome is not None:
            ended.append(outcome)
            trial = self._running.pop(outcome.number, None)  # None where an outcome arrives twice
            if trial is not None:
                self._origins[trial.origin] -= 1
                self._canaries.discard(trial.number)
            try:
                outcome = self._executor.next_outcome(timeout=0.0) if self._running else None
            except ExecutorError as error:
                self._broken, outcome = error, None
        return ended

    def _copy(self, trial: Trial, first: int) -> Outcome:
        scored = self._study.scored(first)
        event: dict[str, object] = {"event": SAME_MODEL, "trial": trial.number, "as": first}
        if first < 0:
            event = {"event": REUSED, "trial": trial.number, "as": first}
        return Outcome(trial.number, scores={} if scored is None else scored.scores, events=(event,))

    def _take(self, outcomes: Sequence[Outcome]) -> bool:
        """Record outcomes, then learn from them; return whether there were any."""
        with self._study.batch():
            recorded = [self._record(outcome) for outcome in outcomes]
        for outcome, new in recorded:
            if new is not None:
                self._learn(outcome, new)
            self._report(outcome)
        return bool(recorded)

    def _record(self, outcome: Outcome) -> tuple[Outcome, bool | None]:
        """Record an outcome; return it as it was recorded, and whether it is the trial's first one.

        None where memory ran out: asked and never told, so that a resumed study scores it again.
        """
        short = short_of_memory(self._study, outcome)
        if short is not None:
            self._paused = self._paused or short
            return outcome, None
        trial = self._study.asked(outcome.number).trial
        if self._driving.examples is not None:
            outcome = self._driving.examples.completed(self._study, trial, outcome)
        outcome, losses = _judge(self._objective.on(trial.split), outcome, trial)
        return outcome, self._study.tell(outcome, losses)

    def _learn(self, outcome: Outcome, new: bool) -> None:
        """Tell the optimizer of a recorded outcome, pause if it shows a fault, and give its scores to its twins."""
        entry = self._study.asked(outcome.number)
        problem = self._on_tell(entry) if new else None
        if problem:  # with the failures that it comes from, so that a resumed study tries those models again
            parents = [e for e in failed_on(self._study, "search") if e.trial.origin.is_parent]
            self._paused = self._paused or replace(diagnose(problem, parents), reason=problem)
        self._paused = self._paused or _fault(entry, self._failures)
        twins = self._twins.pop(outcome.number, [])
        if entry.losses is None and not entry.trial.is_part:
            self._models = {key: number for key, number in self._models.items() if number != outcome.number}
            self._again.extendleft(reversed(twins))
        else:
            self._take([self._copy(twin, outcome.number) for twin in twins])

    def _report(self, outcome: Outcome | None) -> None:
        driving, busy = self._driving, len(self._running)
        slots, reserve, needed = self._executor.slots, driving.reserve, 0.0 if self._stop.finish else None
        driving.progress(Progress(self._study, busy, slots, driving.budget, self._phase, outcome, reserve, needed))

    @property
    def _phase(self) -> str:
        """The phase of a search is that of the trials that run: canary, then baselines, then its candidates."""
        running = {origin for origin, number in self._origins.items() if number}
        if self._driving.phase != "search" or not running or running & {Origin.SEARCH, Origin.RECOMMENDED}:
            return self._driving.phase
        return CANARY if Origin.CANARY in running else "baselines"


def _wait(executor: Executor, stop: StopRequest, patience: float) -> Outcome | None:
    """The next outcome; None when there is none yet, and when a signal says to leave at once."""
    stop.waiting = True
    try:
        return executor.next_outcome(timeout=patience)
    except KeyboardInterrupt:
        return None
    finally:
        stop.waiting = False


def _fault(entry: Entry, failures: Failures) -> Diagnosis | None:
    failure = failure_of(entry)
    if entry.trial.origin is Origin.CANARY and failure is not None:
        return Diagnosis(f"the canary, a check that coefficients change the outputs, failed: {failure.message}")
    return failures.note(entry)


def _judge(objective: Objective, outcome: Outcome, trial: Trial) -> tuple[Outcome, list[float] | None]:
    """Losses of an outcome, None for the canary's; a score that is no number turns it into a failure."""
    if outcome.failure is not None or (trial.origin is Origin.CANARY and not outcome.scores):
        return outcome, None
    if trial.is_part:
        return _judged_part(outcome, trial), None
    try:
        return outcome, [float(loss) for loss in objective.losses(outcome.scores)]
    except NonFiniteScore as error:
        return outcome.changed(failure=Failure("nonfinite", str(error))), None


def _judged_part(outcome: Outcome, trial: Trial) -> Outcome:
    """The outcome of a part; a failure where a score is no number. Optimizers skip gradients that are not finite."""
    broken = [task for task, scores in outcome.scores.items() if not scores.is_complete]
    if not broken or trial.gradient is not None:
        return outcome
    return outcome.changed(failure=Failure("nonfinite", f"Task {broken[0]!r} gave no finite score to some examples."))


def _failed_canary(entry: Entry) -> bool:
    return entry.trial.origin is Origin.CANARY and failure_of(entry) is not None
