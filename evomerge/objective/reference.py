"""How models stand against the parents: the best parent on every task, what `keep` allows, which model is better."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from evaluators.base import Scores
from evomerge.objective.borda import borda
from evomerge.objective.objective import FloatArray, NoReference, Objective
from evomerge.objective.score import DisplayScore

#: Weight of the mean of all tasks beside the worst one, so that of two equally bad worst tasks the better rest wins.
_AUGMENTATION = 0.05
#: What a unit of loss beyond a limit costs in a search with one objective: more than it can gain elsewhere.
_PENALTY = 10.0
#: Differences of losses that are no differences: scores are ratios of counts.
ROUNDING = 1e-9
#: Decimals of an order: the last bits of equal losses depend on how they were added up.
DECIMALS = 12

#: What models are sorted by, smallest first: (excess over what `keep` allows, loss).
Order = tuple[float, float]


@dataclass(frozen=True, eq=False)
class Reference:
    """The best parent on every task; the only place where models are compared with the parents.

    Losses of a model are by task, (n_tasks,), as `Objective.by_task` gives them. While no parent has a score, no model
    falls behind, and the weighted mean of the tasks decides; the latter also where a share of a score of 0 is asked.

    Args:
        objective: The objective of the search.
        losses: The smallest loss of any parent on every task, (n_tasks,); None while no parent has a score.
        display: The score shown to people, which decides in a Pareto search and gives tasks one unit.
        metric: The smallest loss of any parent by the metric of every task, (n_tasks,), from which constraints are
            measured; None where the losses are by metric.
        rivals: Task -> scores by metric of the best parent on it, where `keep` limits flips.
        ranked: The losses of all models that ranks are counted among, parents and baselines, (n_models, n_tasks); None
            where there are none, or the objective is no Borda count.
    """

    objective: Objective
    losses: FloatArray | None
    display: DisplayScore
    metric: FloatArray | None = None
    rivals: Mapping[str, Scores] = field(default_factory=dict)
    ranked: FloatArray | None = None

    @classmethod
    def of(
        cls,
        objective: Objective,
        parents: Iterable[FloatArray],
        display: DisplayScore | None = None,
        metric: Iterable[FloatArray] = (),
        ranked: Iterable[FloatArray] = (),
    ) -> "Reference":
        """The reference that these parents make, each given by its losses, (n_tasks,), and by those of the metrics.

        ranked: losses of the models that ranks are counted among, where the objective is a Borda count; by default
        those of the parents.
        """
        found, by_metric = list(parents), list(metric)
        every = list(ranked) or found
        return cls(
            objective,
            np.min(found, axis=0) if found else None,
            display or DisplayScore(objective),
            np.min(by_metric, axis=0) if by_metric else None,
            ranked=np.array(every) if every and objective.kind == "borda" else None,
        )

    @classmethod
    def among(
        cls,
        objective: Objective,
        parents: Iterable[Mapping[str, Scores]],
        display: DisplayScore | None = None,
        baselines: Iterable[Mapping[str, Scores]] = (),
    ) -> "Reference":
        """The reference that these parents and other baselines make, each given by its scores on every task."""
        found = list(parents)
        by_metric = [objective.metric_losses(scores) for scores in found]
        ranked = map(objective.by_task, (*found, *baselines))
        metric = by_metric if objective.smooth else ()
        made = cls.of(objective, map(objective.by_task, found), display, metric, ranked)
        rivals = {
            task: found[int(np.argmin([losses[column] for losses in by_metric]))][task].by_metric
            for column, task in enumerate(objective.weights)
            if found and objective.limits_flips(task)
        }
        return replace(made, rivals=rivals)

    def constrained(self, scores: Mapping[str, Scores]) -> FloatArray:
        """What constraints are about, (n_tasks,): losses by metric, or where flips are limited, their share."""
        found = self.objective.metric_losses(scores)
        for column, task in enumerate(self.objective.weights):
            if task in self.rivals:
                found[column] = _share_lost(scores[task].by_metric, self.rivals[task])
        return found

    @cached_property
    def problem(self) -> str | None:
        """Why losses relative to the parents cannot be computed; None where they can, or are not needed."""
        if not self.objective.needs_parents:
            return None
        if self.losses is None:
            return None if self.ranked is not None else "Every parent failed, and the objective is relative to them."
        if self.objective.kind == "retention" and (self.losses == 0).any():
            task = list(self.objective.weights)[int(np.flatnonzero(self.losses == 0)[0])]
            return (
                f"No parent scores anything on task {task!r}, so no share of it can be retained: "
                "use objective: chebyshev, or leave the task out."
            )
        return None

    @cached_property
    def limits(self) -> FloatArray:
        """What `keep` allows of `constrained` on every task, (n_tasks,); infinite where nothing is asked."""
        best_losses = self.losses if self.metric is None else self.metric
        if best_losses is None:
            return np.full(len(self.objective.weights), np.inf)
        return np.array([self._limit(*pair) for pair in zip(self.objective.weights, best_losses, strict=True)])

    def _limit(self, task: str, best: float) -> float:
        if task not in self.objective.keep:
            return np.inf
        floor = self.objective.keep[task]
        if self.objective.limits_flips(task):
            return floor.amount if task in self.rivals else np.inf
        return best + floor.allowed(best)

    @property
    def search_limits(self) -> FloatArray:
        """The limits that the losses themselves have to keep, (n_tasks,).

        Infinite for a task with a smooth score, and where flips are limited.
        """
        objective = self.objective
        other = [task in objective.smooth or objective.limits_flips(task) for task in objective.weights]
        return np.where(other, np.inf, self.limits)

    def told(self, losses: FloatArray, constrained: FloatArray | None = None) -> FloatArray:
        """Return the losses for the optimizer, (n_objectives,). Raises NoReference where there is a `problem`.

        constrained: what constraints are about where it is not the losses, (n_tasks,).
        """
        if self.objective.pareto:
            return losses
        excess = np.maximum(0.0, (losses if constrained is None else constrained) - self.limits).sum()
        return np.array([self._loss(losses) + _PENALTY * excess])

    def order(self, losses: FloatArray, constrained: FloatArray | None = None) -> Order:
        """Return the sort key of a model, smallest is best: constraint violation first, then the objective.

        constrained: as for `told`.
        """
        if self.objective.pareto:
            loss = -self.display.of_means(self.objective.as_scores(losses))
        else:
            loss = self._loss(losses) if self.problem is None else self._mean(losses)
        return round(self.excess(losses if constrained is None else constrained), DECIMALS), round(loss, DECIMALS)

    def excess(self, constrained: FloatArray) -> float:
        """Return the total constraint violation over all tasks; 0 if all constraints of `keep` are met."""
        if self.losses is None or not self.objective.keep:
            return 0.0
        beyond = constrained - self.limits
        other = self.objective.smooth.keys() | self.rivals.keys()
        ends = {task: ends for task, ends in self.display.scale.items() if task not in other}
        spans = [abs(ends[t][1] - ends[t][0]) or 1.0 if t in ends else 1.0 for t in self.objective.weights]
        return float((np.where(beyond > ROUNDING, beyond, 0.0) / np.array(spans)).sum())

    def violated(self, constrained: FloatArray) -> tuple[str, ...]:
        """The tasks on which a model falls behind what `keep` allows."""
        beyond = constrained - self.limits > ROUNDING
        return tuple(task for task, over in zip(self.objective.weights, beyond, strict=True) if over)

    def gains(self, losses: FloatArray) -> dict[str, float]:
        """By task, how far a model is ahead of the best parent on it; empty while no parent has a score."""
        if self.losses is None:
            return {}
        return {task: float(gain) for task, gain in zip(self.objective.weights, self.losses - losses, strict=True)}

    def decisive(self, losses: FloatArray) -> dict[str, float]:
        """Where the worst task or the Borda count decides, how it stands, by the kind's name, larger is better.

        As good as the best parents are 0 of chebyshev and 1 of retention. What else decides is left out: the mean of
        all tasks, a twentieth, and what `keep` asks. Empty for other kinds, and where there is a `problem`.
        """
        kind = self.objective.kind
        if kind == "borda" and self.problem is None:
            return {kind: -self._loss(losses)}
        if kind not in ("chebyshev", "retention") or self.problem is not None:
            return {}
        worst = float(self._gaps(losses).max())
        return {kind: 1.0 - worst if kind == "retention" else 0.0 - worst}

    def worst(self, losses: FloatArray) -> str | None:
        """The task that `decisive` tells of; None where no single one decides."""
        if self.objective.kind == "borda" or not self.decisive(losses):
            return None
        return list(self.objective.weights)[int(self._gaps(losses).argmax())]

    def _loss(self, losses: FloatArray) -> float:
        if self.problem is not None:
            raise NoReference(self.problem)
        if self.objective.kind == "mean":
            return self._mean(losses)
        if self.ranked is not None:
            return -borda(losses, self.ranked, self.objective.shares)
        gaps = self._gaps(losses)
        return float(gaps.max() + _AUGMENTATION * gaps.mean())

    def _mean(self, losses: FloatArray) -> float:
        return float(losses @ self.objective.shares)

    def _gaps(self, losses: FloatArray) -> FloatArray:
        """Return each task's gap to the best parent on it, (n_tasks,): weighted, or as a share of its score."""
        best = np.asarray(self.losses)
        gaps = losses - best
        if self.objective.kind == "chebyshev":
            return np.asarray(gaps * self.objective.shares * len(gaps))
        return np.asarray(gaps / np.abs(best))


def _share_lost(mine: Scores, theirs: Scores) -> float:
    """Return the mean over the examples of how much lower a model's value is than another's, 0 where it is higher.

    For answers that are right or wrong, that is the share of examples that only the other gets right.
    """
    return float(np.maximum(0.0, theirs.values - mine.values).mean())
