"""How models stand against the parents: the best parent on every task, what `keep` allows, which model is better."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

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
    """

    objective: Objective
    losses: FloatArray | None
    display: DisplayScore
    metric: FloatArray | None = None

    @classmethod
    def of(
        cls,
        objective: Objective,
        parents: Iterable[FloatArray],
        display: DisplayScore | None = None,
        metric: Iterable[FloatArray] = (),
    ) -> "Reference":
        """The reference that these parents make, each given by its losses, (n_tasks,), and by those of the metrics."""
        found, by_metric = list(parents), list(metric)
        return cls(
            objective,
            np.min(found, axis=0) if found else None,
            display or DisplayScore(objective),
            np.min(by_metric, axis=0) if by_metric else None,
        )

    @cached_property
    def problem(self) -> str | None:
        """Why losses relative to the parents cannot be computed; None where they can, or are not needed."""
        if not self.objective.needs_parents:
            return None
        if self.losses is None:
            return "Every parent failed, and the objective is relative to them."
        if self.objective.kind == "retention" and (self.losses == 0).any():
            task = list(self.objective.weights)[int(np.flatnonzero(self.losses == 0)[0])]
            return (
                f"No parent scores anything on task {task!r}, so no share of it can be retained: "
                "use objective: chebyshev, or leave the task out."
            )
        return None

    @cached_property
    def limits(self) -> FloatArray:
        """The largest loss by metric that `keep` allows on every task, (n_tasks,); infinite where nothing is asked."""
        best_losses = self.losses if self.metric is None else self.metric
        if best_losses is None:
            return np.full(len(self.objective.weights), np.inf)
        keep = self.objective.keep
        falls = [
            keep[task].allowed(best) if task in keep else np.inf
            for task, best in zip(self.objective.weights, best_losses, strict=True)
        ]
        return np.asarray(best_losses + np.array(falls), dtype=np.float64)

    @property
    def search_limits(self) -> FloatArray:
        """The limits that the losses themselves have to keep, (n_tasks,); infinite for a task with a smooth score."""
        smooth = [task in self.objective.smooth for task in self.objective.weights]
        return np.where(smooth, np.inf, self.limits)

    def told(self, losses: FloatArray, metric: FloatArray | None = None) -> FloatArray:
        """Return the losses for the optimizer, (n_objectives,). Raises NoReference where there is a `problem`.

        metric: the losses by metric where they differ, (n_tasks,), which constraints are about.
        """
        if self.objective.pareto:
            return losses
        excess = np.maximum(0.0, (losses if metric is None else metric) - self.limits).sum()
        return np.array([self._loss(losses) + _PENALTY * excess])

    def order(self, losses: FloatArray, metric: FloatArray | None = None) -> Order:
        """Return the sort key of a model, smallest is best: constraint violation first, then the objective.

        metric: as for `told`.
        """
        if self.objective.pareto:
            loss = -self.display.of_means(self.objective.as_scores(losses))
        else:
            loss = self._loss(losses) if self.problem is None else self._mean(losses)
        return round(self.excess(losses if metric is None else metric), DECIMALS), round(loss, DECIMALS)

    def excess(self, losses: FloatArray) -> float:
        """Return the total constraint violation over all tasks; 0 if all constraints of `keep` are met.

        losses: by metric, (n_tasks,).
        """
        if self.losses is None or not self.objective.keep:
            return 0.0
        beyond = losses - self.limits
        ends = {task: ends for task, ends in self.display.scale.items() if task not in self.objective.smooth}
        spans = [abs(ends[t][1] - ends[t][0]) or 1.0 if t in ends else 1.0 for t in self.objective.weights]
        return float((np.where(beyond > ROUNDING, beyond, 0.0) / np.array(spans)).sum())

    def violated(self, losses: FloatArray) -> tuple[str, ...]:
        """The tasks on which a model falls behind what `keep` allows. losses: by metric, (n_tasks,)."""
        beyond = losses - self.limits > ROUNDING
        return tuple(task for task, over in zip(self.objective.weights, beyond, strict=True) if over)

    def gains(self, losses: FloatArray) -> dict[str, float]:
        """By task, how far a model is ahead of the best parent on it; empty while no parent has a score."""
        if self.losses is None:
            return {}
        return {task: float(gain) for task, gain in zip(self.objective.weights, self.losses - losses, strict=True)}

    def decisive(self, losses: FloatArray) -> dict[str, float]:
        """Where the worst task decides, how it stands, by the kind's name, larger is better.

        As good as the best parents are 0 of chebyshev and 1 of retention. What else decides is left out: the mean of
        all tasks, a twentieth, and what `keep` asks. Empty for other kinds, and where there is a `problem`.
        """
        kind = self.objective.kind
        if kind not in ("chebyshev", "retention") or self.problem is not None:
            return {}
        worst = float(self._gaps(losses).max())
        return {kind: 1.0 - worst if kind == "retention" else 0.0 - worst}

    def worst(self, losses: FloatArray) -> str | None:
        """The task that `decisive` tells of; None where no single one decides."""
        return list(self.objective.weights)[int(self._gaps(losses).argmax())] if self.decisive(losses) else None

    def _loss(self, losses: FloatArray) -> float:
        if self.problem is not None:
            raise NoReference(self.problem)
        if self.objective.kind == "mean":
            return self._mean(losses)
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
