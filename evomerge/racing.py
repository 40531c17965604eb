"""Racing: a candidate that is clearly worse than the best one so far is dropped after some of the examples.

A candidate is scored on growing prefixes of one fixed order of the search examples. After each prefix, the paired
differences from the incumbent decide whether it continues (Hoeffding races, Maron and Moore, 1993; the test and its
constants are in experiments/LOG.md). The optimizer gets an estimate of a dropped candidate: the incumbent's
score plus the mean difference, because its own mean would compare different examples.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from evomerge import plugins
from evomerge.errors import EvomergeError
from evomerge.objective import Objective
from evomerge.optimizers.base import FloatArray, Optimizer
from evomerge.search_examples import SearchExamples, why_no_parts
from evomerge.statistics.stratified import interleaved
from evomerge.study import Entry, Study
from evomerge.trial import Origin, Trial

#: Standard errors by which a candidate must be behind to be dropped. In a simulation, 4 % of the candidates that were
#: truly 2 points ahead were lost, or 14 %, which an optimizer with hundreds of candidates can afford.
LEVELS = {"safe": 1.64, "aggressive": 1.0}
#: Name in the search file of no race at all.
OFF = "off"
#: Examples of every look after the first, and the fewest of the first.
BLOCK = 50
#: The first look comes after this share of the examples at the earliest.
FIRST_SHARE = 1 / 12

#: Examples from which `auto` races: with fewer, little is saved.
ENOUGH = 300


class RacingError(EvomergeError):
    """A search whose candidates cannot race."""


@dataclass(frozen=True)
class Dropped:
    """A candidate that lost: number of its first part, estimated loss, and the share of examples that were scored."""

    number: int
    x: FloatArray
    losses: FloatArray
    share: float


@dataclass(frozen=True, eq=False)
class _Runner:
    """A candidate after some looks: number of its first part, the look, and its scores in the race's order."""

    first: int
    look: int
    scores: FloatArray


class Race:
    """Decides which candidates go on. Its state follows from the trials that it is shown, in their order.

    Args:
        examples: Examples of the search split.
        objective: A weighted mean of tasks with examples.
        seed: Key of the order of the examples.
        z: A candidate is dropped if it is worse than the incumbent by this many standard errors.

    Raises:
        RacingError: The objective or the number of examples does not allow it.
    """

    def __init__(self, examples: SearchExamples, objective: Objective, seed: int, z: float) -> None:
        reason = why_no_race(examples, objective)
        if reason:
            raise RacingError(reason)
        self._examples, self._objective, self._seed, self.z = examples, objective, seed, z
        self._order = interleaved([len(names) for names in examples.ids.values()], seed)
        shares = dict(zip(objective.weights, objective.shares, strict=True))
        self._scale = {
            task: objective.sign(task) * shares[task] * examples.total / len(names)
            for task, names in examples.ids.items()
        }
        self._looks = _looks(examples.total)
        self._incumbent: FloatArray | None = None
        self._best = -np.inf
        self._runners: dict[int, _Runner] = {}
        self._waiting: dict[int, Trial] = {}

    def on(self, examples: SearchExamples) -> "Race":
        """Return a race over other examples that no trial has been shown to, with the same rules."""
        return Race(examples, self._objective, self._seed, self.z)

    def begin(self, candidate: Trial) -> Trial:
        """Return the first part of a candidate; the whole candidate while there is no incumbent."""
        return self._looked_at(candidate, 0) if self._incumbent is not None else candidate

    def first_of(self, trial: Trial) -> int:
        """Return the number under which the optimizer proposed a candidate: that of its first part."""
        runner = None if trial.extends is None else self._runners.get(trial.extends)
        return trial.number if runner is None else runner.first

    @property
    def pending(self) -> dict[int, FloatArray]:
        """Points of the candidates that wait for their next look, by the number of their first part."""
        return {self._runners[n].first: t.x for n, t in self._waiting.items() if t.x is not None}

    @property
    def waiting(self) -> bool:
        """Whether a candidate waits for its next look."""
        return bool(self._waiting)

    def next_look(self, number: int) -> Trial:
        """Return the next look, as trial `number`, of the candidate that has waited longest; it waits no more."""
        before = next(iter(self._waiting))
        trial = self._waiting.pop(before)
        return self._looked_at(trial.changed(number=number, extends=before), self._runners[before].look + 1)

    def asked(self, trial: Trial) -> None:
        """Take note that a candidate's next look was asked for."""
        if trial.extends is not None:
            self._waiting.pop(trial.extends, None)

    def take(self, entry: Entry) -> Dropped | None:
        """Take the result of a trial on the search split; returns the candidate if it is dropped."""
        trial, outcome = entry.trial, entry.outcome
        if trial.gradient is not None or trial.x is None or outcome is None or outcome.failure is not None:
            return None
        scores = {task: given.values for task, given in outcome.scores.items()}
        if not trial.is_part:
            self._crown(trial, scores)
            return None
        runner = self._runner(trial, scores)
        self._runners[trial.number] = runner
        if self._incumbent is None:
            raise RacingError(f"Trial {trial.number} was raced without an incumbent.")
        ahead = runner.scores - self._incumbent[: len(runner.scores)]
        size = len(ahead)
        mean = float(ahead.mean())
        # One difference more than was seen, so that none at all is no certainty.
        error = np.sqrt((size * float(ahead.var()) + float((ahead**2).max(initial=0.0))) / size / size)
        if mean + self.z * error >= 0:
            self._waiting[trial.number] = trial
            return None
        estimated = np.array([-(self._best + mean)])
        return Dropped(runner.first, trial.x, estimated, size / self._examples.total)

    def replay(self, study: Study) -> None:
        """Take what a study holds, to see who waits; the optimizer is told by `feedback.replay`."""
        for entry in study.ended_since:
            if entry.trial.split == "search":
                self.take(entry)
        for entry in (*study.parts.values(), *study.entries.values()):
            self.asked(entry.trial)

    def _crown(self, trial: Trial, scores: Mapping[str, FloatArray]) -> None:
        """Make a whole candidate the incumbent if it is the best one so far."""
        if trial.origin.is_parent or trial.origin is Origin.CANARY:
            return
        ordered = np.array([self._scale[task] * scores[task][row] for task, row in self._in_order(0, None)])
        if ordered.mean() > self._best:
            self._best, self._incumbent = float(ordered.mean()), ordered

    def _runner(self, trial: Trial, scores: Mapping[str, FloatArray]) -> _Runner:
        before = None if trial.extends is None else self._runners[trial.extends]
        look = 0 if before is None else before.look + 1
        begin = 0 if before is None else self._looks[before.look]
        examples = trial.examples or {}
        place = {
            task: {row: i for i, row in enumerate(rows)}
            for task, rows in zip(self._examples.ids, self._examples.rows(examples), strict=True)
        }
        new = [self._scale[t] * scores[t][place[t][row]] for t, row in self._in_order(begin, self._looks[look])]
        old = [] if before is None else before.scores.tolist()
        return _Runner(trial.number if before is None else before.first, look, np.array([*old, *new]))

    def _looked_at(self, candidate: Trial, look: int) -> Trial:
        """Return the trial of one look; after the last look, the one that scores all that is left."""
        begin = 0 if look == 0 else self._looks[look - 1]
        end = self._looks[look] if look < len(self._looks) else None
        rows: dict[str, list[int]] = {task: [] for task in self._examples.ids}
        for task, row in self._in_order(begin, end):
            rows[task].append(row)
        chosen = self._examples.chosen(tuple(tuple(of_task) for of_task in rows.values()))
        return candidate.changed(examples=None if end is None else chosen, cost=self._examples.cost(chosen))

    def _in_order(self, begin: int, end: int | None) -> list[tuple[str, int]]:
        tasks = list(self._examples.ids)
        return [(tasks[task], row) for task, row in self._order[begin:end]]


def make_race(
    racing: str | None, optimizer: str, examples: SearchExamples, objective: Objective, seed: int
) -> Race | None:
    """Return the race that a search file asks for; `auto` races by itself where there are enough examples.

    Args:
        racing: Name of a level in LEVELS, or OFF; None if the search file does not say.
        optimizer: Name of the optimizer.
        examples: Examples of the search split.
        objective: The objective.
        seed: Seed of the search.

    Raises:
        RacingError: The search file asks for a race that cannot be held.
    """
    if racing == OFF:
        return None
    if racing is not None:
        kind: type[Optimizer] = plugins.load("optimizer", optimizer, Optimizer)
        if kind.uses_parts and not kind.follows_gradients:
            raise RacingError(
                f"{optimizer} decides by itself which candidates are scored on more examples. Remove `racing`."
            )
        return Race(examples, objective, seed, LEVELS[racing])
    by_itself = optimizer == "auto" and examples.total >= ENOUGH and why_no_race(examples, objective) is None
    return Race(examples, objective, seed, LEVELS["safe"]) if by_itself else None


def why_no_race(examples: SearchExamples, objective: Objective) -> str | None:
    """Return why candidates cannot race; None where they can."""
    reason = why_no_parts(objective)
    if reason is not None:
        return f"{reason} Set `racing: off`."
    if not _looks(examples.total):
        return (
            f"Racing needs at least {2 * BLOCK} examples on the search split; there are {examples.total}. "
            "Set `racing: off`, or provide more examples."
        )
    return None


def _looks(total: int) -> tuple[int, ...]:
    """Numbers of examples after which a candidate is compared; less than half of a block is not left for the end."""
    first = max(BLOCK, round(total * FIRST_SHARE))
    return tuple(range(first, total - BLOCK // 2, BLOCK)) if total >= 2 * BLOCK else ()
