"""Choosing a merge off a front: by weights, by constraints, at the knee, or as the study itself prefers.

A constraint is TASK>=VALUE, or TASK<=VALUE where less is better. VALUE is a score (`0.71`), points from the best of the
base and the parents on that task (`-1pt`: 0.01 below it), or a percentage: signed, how far from that score (`-2%`),
without a sign the share of it (`98%`).
"""

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from evaluators._nearest import did_you_mean
from evomerge.errors import EvomergeError
from evomerge.objective import FloatArray, Floor, Objective
from evomerge.objective.floor import hundredths, read_floor
from evomerge.objective.score import are_shares, display_score
from evomerge.results.front import Front, knee_distances
from evomerge.results.ranking import losses_of
from evomerge.results.scored import ScoredModel

_FORMS = "`chat>=0.71` (a score), `chat>=-1pt` (0.01 below the best parent) or `chat>=98%` (of the best parent's score)"
_CONSTRAINT = re.compile(r"(?P<task>.+?)\s*(?P<sign>>=|<=)\s*(?P<value>.+)")
_WEIGHT = re.compile(r"(?P<task>.+?)\s*=\s*(?P<weight>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)")
#: Scores are ratios of counts; what differs by less is the same.
_ROUNDING = 1e-9


class ChoiceError(EvomergeError):
    """A wish that cannot be read, or cannot be measured in this study."""


@dataclass(frozen=True)
class Constraint:
    """What a merge has to reach on a task; text as it was given."""

    text: str
    task: str
    floor: Floor


@dataclass(frozen=True)
class Wish:
    """What is wanted: one of weights, best_at (a task) and knee, or none for the study's own preference; and limits."""

    weights: Mapping[str, float] | None = None
    best_at: str | None = None
    knee: bool = False
    keep: tuple[Constraint, ...] = ()

    @property
    def counted(self) -> Mapping[str, float] | None:
        """The weights of the tasks that count something; None where no weights were given."""
        return None if self.weights is None else {task: weight for task, weight in self.weights.items() if weight}

    @property
    def text(self) -> str:
        """In words."""
        if self.counted is not None:
            spec = f"the best for {weights_text(self.counted)}"
        elif self.best_at is not None:
            spec = f"the best on {self.best_at}"
        else:
            spec = "the knee" if self.knee else "the study's preferred merge"
        return spec + (" with " + ", ".join(constraint.text for constraint in self.keep) if self.keep else "")


@dataclass(frozen=True, eq=False)
class Reached:
    """A constraint and what a point has: limit and value in the task's unit; missed_by > 0 where it is not met."""

    constraint: Constraint
    limit: float
    value: float
    missed_by: float


@dataclass(frozen=True, eq=False)
class Chosen:
    """The point that a wish leads to; where none keeps every constraint, the nearest."""

    point: ScoredModel
    wish: Wish
    reached: tuple[Reached, ...]

    @property
    def met(self) -> bool:
        """Whether every constraint is kept."""
        return all(each.missed_by <= 0 for each in self.reached)


def weights_text(weights: Mapping[str, float]) -> str:
    """`math=2, chat=1`."""
    return ", ".join(f"{task}={weight:g}" for task, weight in weights.items())


def read_wish(
    objective: Objective, *, prefer: str | None, best_at: str | None, keep: Sequence[str], knee: bool
) -> Wish:
    """The wish behind `--prefer math=2,chat=1`, `--max math`, `--keep 'chat>=-1pt'`, `--knee`. Raises ChoiceError."""
    if sum((prefer is not None, best_at is not None, knee)) > 1:
        raise ChoiceError("Choose one of --prefer, --max and --knee; --keep can be combined with any of them.")
    if best_at is not None:
        _known(best_at, objective.weights)
    return Wish(
        None if prefer is None else read_weights(prefer, objective.weights),
        best_at,
        knee,
        tuple(read_constraint(text, objective) for text in keep),
    )


def read_weights(text: str, tasks: Collection[str]) -> dict[str, float]:
    """`math=2,chat=1`; a task that is not named counts nothing. Raises ChoiceError."""
    weights = dict.fromkeys(tasks, 0.0)
    for part in text.split(","):
        found = _WEIGHT.fullmatch(part.strip())
        if found is None:
            raise ChoiceError(f"Cannot read {part.strip()!r} as a weight: expected TASK=NUMBER, such as math=2,chat=1.")
        weights[_known(found["task"], tasks)] = float(found["weight"])
    if min(weights.values()) < 0 or not math.isfinite(sum(weights.values())) or sum(weights.values()) == 0:
        raise ChoiceError(f"Weights must be at least 0 and not all 0; got {text!r}.")
    return weights


def read_constraint(text: str, objective: Objective) -> Constraint:
    """`chat>=0.71`, `chat>=-1pt`, `chat>=98%`, `perplexity<=12`. Raises ChoiceError."""
    found = _CONSTRAINT.fullmatch(text.strip())
    sign = 1.0 if found is None else objective.sign(found["task"])
    floor = None if found is None else read_floor(found["value"], sign)
    if found is None or floor is None:
        raise ChoiceError(f"Cannot read the constraint {text!r}: expected TASK>=VALUE as in {_FORMS}.")
    task, wanted = _known(found["task"], objective.weights), ">=" if sign > 0 else "<="
    if found["sign"] != wanted:
        better = "larger" if wanted == ">=" else "smaller"
        raise ChoiceError(f"On {task} {better} is better, so a constraint is {task}{wanted}VALUE; got {text!r}.")
    if floor.unit == "fall" and floor.amount != 0 and found["value"][0] not in "+-":
        points, score = abs(100 * floor.amount), abs(floor.amount)
        raise ChoiceError(
            f"Points in {text!r} need a sign, since they count from the best parent: {task}{wanted}-{points:g}pt "
            f"is {score:g} below it. For the score itself write {task}{wanted}{score:g}."
        )
    return Constraint(text.strip(), task, floor)


def choose(front: Front, wish: Wish) -> Chosen:
    """The point of the front's choices that a wish leads to; of equal ones the one with the smallest trial number.

    Where no point keeps the constraints it is the one whose largest miss is smallest, in ranges of the front. Raises
    ChoiceError where there is nothing to choose from.
    """
    if not front.choices:
        raise ChoiceError(f"No merge of this study is scored on the {front.split} split yet.")
    losses = losses_of(front.choices)
    if wish.knee and front.knee is None and np.ptp(losses, axis=0).any():
        raise ChoiceError(
            f"The front of the {front.split} split has no knee: no merge is better than the line between its extremes. "
            "Choose by --prefer or --max."
        )
    options = [reached(front, point, wish) for point in front.choices]
    missed = np.array([[each.missed_by for each in option.reached] for option in options])
    kept = (missed <= 0).all(axis=1)
    if kept.any():
        row = int(np.argmin(np.where(kept, _aim(front, wish, losses), np.inf)))
    else:
        ranges = np.ptp(losses, axis=0)
        columns = [front.tasks.index(each.task) for each in wish.keep]
        row = int(np.argmin((missed / np.where(ranges > 0, ranges, 1.0)[columns]).max(axis=1).round(12)))
    return options[row]


def reached(front: Front, point: ScoredModel, wish: Wish) -> Chosen:
    """Evaluate the constraints of a wish at a point."""
    found = []
    for each in wish.keep:
        limit, value = _limit(front, each), point.tasks[each.task].mean
        missed_by = front.objective.sign(each.task) * (limit - value)
        found.append(Reached(each, limit, value, missed_by if missed_by > _ROUNDING else 0.0))
    return Chosen(point, wish, tuple(found))


def preferred_model(front: Front, chosen: Chosen) -> tuple[ScoredModel, float, float] | None:
    """Find the base or parent that scores highest by the wish, if it scores higher than the choice.

    Returns it with both scores, in the unit of the wish, or None. A model that breaks a constraint does not count, and
    by the knee no model is better than another.
    """
    wish, point = chosen.wish, chosen.point
    models = [model for model in front.parents if reached(front, model, wish).met]
    if wish.knee or not models:
        return None
    if wish.best_at is None and wish.weights is None:
        models = [model for model in models if model.order < point.order]
    values = {each.label: _value(front, wish, each) for each in (point, *models)}
    sign = 1.0 if wish.best_at is None else front.objective.sign(wish.best_at)
    best = max(models, key=lambda model: sign * values[model.label], default=point)
    ahead = sign * (values[best.label] - values[point.label]) > _ROUNDING
    return (best, values[best.label], values[point.label]) if ahead else None


def _value(front: Front, wish: Wish, point: ScoredModel) -> float:
    """The score of a point by the wish, as people read it."""
    if wish.weights is not None:
        stick = display_score(replace(front.objective, weights=wish.weights), [point.scores for point in front.points])
        return stick.score(point.scores)
    if wish.best_at is not None:
        return point.tasks[wish.best_at].mean
    return next(iter(point.decisive.values()), point.score.mean)


def _aim(front: Front, wish: Wish, losses: FloatArray) -> FloatArray:
    """What the wish makes of every choice, (n_choices,); smaller is better."""
    if wish.weights is not None:
        stick = display_score(replace(front.objective, weights=wish.weights), [point.scores for point in front.points])
        spec = np.array([-stick.score(point.scores) for point in front.choices])
    elif wish.best_at is not None:
        spec = losses[:, front.tasks.index(wish.best_at)]
    else:
        ranks = sorted(point.rank for point in front.choices)
        spec = -knee_distances(losses) if wish.knee else np.array([ranks.index(p.rank) for p in front.choices])
    return np.asarray(spec).round(12)


def _limit(front: Front, constraint: Constraint) -> float:
    """The score that is asked for. Raises ChoiceError for one above 1 where all scores are shares."""
    best, task, floor = front.reference.losses, constraint.task, constraint.floor
    if floor.unit == "score":
        if floor.amount > 1 and are_shares(front.objective, task, (p.scores for p in front.points)):
            raise ChoiceError(
                f"{constraint.text!r} can never be met: scores on {task} lie between 0 and 1. "
                f"{task}>={floor.amount:g}% is {floor.amount:g} % of the best parent's score, "
                f"{task}>={hundredths(floor.amount):g} a score."
            )
        return floor.amount
    if best is None:
        raise ChoiceError(
            f"{constraint.text!r} is measured from the best parent, and none is scored on this split: "
            f"give a score, such as {task}>=0.71."
        )
    score = front.objective.as_scores(best)[task]
    if floor.unit == "share" and score == 0:
        raise ChoiceError(
            f"{constraint.text!r} is a share of the best parent's score on {task}, which is 0: "
            "give a score or points (-1pt)."
        )
    return floor.limit(score, front.objective.sign(task))


def _known(task: str, tasks: Collection[str]) -> str:
    if task not in tasks:
        raise ChoiceError(f"No task named {task!r}; there are {', '.join(tasks)}.{did_you_mean(task, tasks)}")
    return task
