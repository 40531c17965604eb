"""Measurement before a search begins: its workers start, and score candidates, all at once as they will."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np

from evaluators.base import Scores
from evomerge.config import SearchConfig
from evomerge.execution.base import Executor
from evomerge.launch.plan import LaunchError, Plan
from evomerge.launch.workers import start_executor
from evomerge.merging import pins
from evomerge.trial import START, Origin, Outcome, Trial

#: Seconds after which no more candidates are begun, and the most of them per worker.
ENOUGH, MOST = 5.0, 4


@dataclass(frozen=True)
class Probe:
    """Measurements by the workers of a search.

    workers: their number. ready: seconds until they ran. first: seconds until each had scored its first model, for
    which it reads weights and prompts. stages: seconds of a later candidate by stage, see `Outcome`. candidates: how
    many of these were scored. scores: of the start and a parent, by label.
    """

    workers: int
    ready: float
    first: float
    stages: Mapping[str, float]
    candidates: int
    scores: Mapping[str, Mapping[str, Scores]]


def probe(config: SearchConfig, plan: Plan, say: Callable[[str], None] = lambda _: None) -> Probe:
    """Start the workers of a search, and score a parent on each, then the start and random points.

    Raises LaunchError if the start or the parent cannot be scored, ExecutorError if no worker starts.
    """
    begin = time.monotonic()
    found = pins.take(pins.input_files(plan.spec.recipe))
    with closing(start_executor(config, replace(plan.spec, pins=found), plan.needs, say)) as executor:
        ready = time.monotonic() - begin
        say(f"scoring a parent on each of {executor.slots} workers" if executor.slots > 1 else "scoring a parent")
        parent = next(trial for trial in plan.planned if trial.origin is Origin.PARENT)
        slots = executor.slots
        parents = _score(executor, iter([parent] * slots), most=slots)
        first = time.monotonic() - begin - ready
        say("scoring candidates")
        others = _score(executor, _candidates(plan, config.seed), most=MOST * slots)
    _refuse_failed(parents[0], others[0])
    scored = [outcome for outcome in others if outcome.failure is None]
    names = {name for outcome in scored for name in outcome.seconds}
    stages = {name: float(np.mean([each.seconds.get(name, 0.0) for each in scored])) for name in sorted(names)}
    scores = {parent.label: parents[0].scores, START: others[0].scores}
    return Probe(slots, ready, first, stages, len(scored), scores)


def _candidates(plan: Plan, seed: int) -> Iterator[Trial]:
    """Yield the start, then random points: no two are equal, or the second would find its weights merged."""
    yield next(trial for trial in plan.planned if trial.label == START)
    rng = np.random.default_rng([seed, plan.space.dimension])
    while True:
        yield Trial(0, rng.random(plan.space.dimension), seed=seed)


def _score(executor: Executor, trials: Iterator[Trial], *, most: int) -> list[Outcome]:
    """Keep all workers busy until ENOUGH seconds or `most` trials; return the outcomes in order of submission."""
    begin, submitted, outcomes = time.monotonic(), 0, list[Outcome]()
    while True:
        while submitted < most and submitted - len(outcomes) < executor.slots:
            if submitted >= executor.slots and time.monotonic() > begin + ENOUGH:
                break
            executor.submit(next(trials).changed(number=submitted))
            submitted += 1
        outcome = executor.next_outcome()
        if outcome is not None:
            outcomes.append(outcome)
        elif submitted == len(outcomes):
            return sorted(outcomes, key=lambda each: each.number)


def _refuse_failed(*outcomes: Outcome) -> None:
    for outcome in outcomes:
        if outcome.failure is not None:
            raise LaunchError(f"A candidate could not be scored: {outcome.failure.kind}: {outcome.failure.message}")
