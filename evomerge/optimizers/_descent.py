"""One descent by coefficient gradients: Adam on small batches of examples, with the steps of a cosine schedule.

One set of constants serves every search. experiments/LOG.md says which of them were measured again and which were taken
over from an earlier study.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from evomerge.optimizers.base import FloatArray, Measures, Rows, TaskExamples

#: Largest step, as a share of a coefficient's range: half or twice as much ends within a point.
PEAK = 0.05
_BETA_1, _BETA_2, _EPSILON = 0.9, 0.95, 1e-12
#: Steps wanted: at equal cost, more and smaller batches beat fewer and larger ones.
_STEPS = 60
_LEAST_BATCH, _MOST_BATCH = 8, 32
#: What a forward and a backward pass cost, in forward passes.
_PASSES = 3


class Descent:
    """A run of fixed length from one point; everything follows from the key and the gradients so far.

    Args:
        start: Point to start from, (dimension,).
        tasks: All tasks, in their order.
        weights: Weight of each task's mean loss, (n_tasks,); a task with weight 0 is left out of the batches.
        evaluations: Budget, in evaluations of the whole search split by the tasks that are used.
        key: Key of the order of the examples.
        groups: Group of each coordinate, (dimension,); the coordinates of a group take the same steps. None: each its
            own.
        peak: Largest step, as a share of a coefficient's range.
        batch: Examples per step; by default a number that allows about 60 steps.
    """

    def __init__(
        self,
        start: FloatArray,
        tasks: Sequence[TaskExamples],
        weights: Sequence[float],
        evaluations: float,
        key: tuple[int, ...],
        *,
        groups: NDArray[np.int64] | None = None,
        peak: float = PEAK,
        batch: int | None = None,
    ) -> None:
        self.x: FloatArray = np.array(start, dtype=np.float64)
        self._key, self._peak = key, peak
        self._groups = np.arange(len(self.x)) if groups is None else groups
        self._sizes = [task.n_examples for task in tasks]
        self._used = [i for i, weight in enumerate(weights) if weight > 0]
        self.weights = tuple(float(weight) for weight in weights)
        total = sum(self._sizes[i] for i in self._used)
        wanted = round(evaluations * total / (_PASSES * _STEPS))
        least = max(_LEAST_BATCH, len(self._used))
        self._batch = batch or min(max(wanted, least), max(_MOST_BATCH, least), total)
        self.n_steps = max(1, int(evaluations * total / (_PASSES * self._batch)))
        self.step = 0
        self.skipped = 0
        n_groups = int(self._groups.max()) + 1
        self._mean, self._square = np.zeros(n_groups), np.zeros(n_groups)
        self._orders: dict[tuple[int, int], NDArray[np.int64]] = {}

    @property
    def finished(self) -> bool:
        """Whether all steps have been taken."""
        return self.step >= self.n_steps

    @property
    def share(self) -> float:
        """The share of all examples that the tasks with a loss have."""
        return sum(self._sizes[i] for i in self._used) / sum(self._sizes)

    @property
    def evaluations_left(self) -> float:
        """What the steps to come cost, in evaluations of the whole search split by all tasks."""
        return _PASSES * (self.n_steps - self.step) * self._batch / sum(self._sizes)

    def rows(self) -> Rows:
        """Return the examples of the next step: every task in turn, each in a new random order per epoch."""
        chosen: list[list[int]] = [[] for _ in self._sizes]
        for place in range(self.step * self._batch, (self.step + 1) * self._batch):
            turn, position = place // len(self._used), place % len(self._used)
            task = self._used[position]
            epoch, at = divmod(turn, self._sizes[task])
            row = int(self._order(task, epoch)[at])
            if row not in chosen[task]:  # where one epoch ends and the next begins
                chosen[task].append(row)
        return tuple(tuple(sorted(rows)) for rows in chosen)

    def take(self, gradient: FloatArray | None) -> None:
        """Take a step. gradient: (dimension,); a missing one, or one that is not finite, is skipped and counted."""
        step, self.step = self.step, self.step + 1
        if gradient is None or not np.isfinite(gradient).all():
            self.skipped += 1
            return
        sums = np.bincount(self._groups, weights=gradient, minlength=len(self._mean))
        self._mean = _BETA_1 * self._mean + (1 - _BETA_1) * sums
        self._square = _BETA_2 * self._square + (1 - _BETA_2) * sums**2
        taken = step + 1 - self.skipped
        mean = self._mean / (1 - _BETA_1**taken)
        scale = np.sqrt(self._square / (1 - _BETA_2**taken)) + _EPSILON
        size = self._peak * 0.5 * (1 + np.cos(np.pi * (step + 0.5) / self.n_steps))
        self.x = np.clip(self.x - size * (mean / scale)[self._groups], 0.0, 1.0)

    def _order(self, task: int, epoch: int) -> NDArray[np.int64]:
        if (task, epoch) not in self._orders:
            rng = np.random.Generator(np.random.Philox(np.random.SeedSequence((*self._key, task, epoch))))
            self._orders[task, epoch] = rng.permutation(self._sizes[task])
        return self._orders[task, epoch]


def loss_weights(measures: Measures) -> list[float]:
    """Return the weight of every task's mean loss: its share of the objective, 0 without a loss; they sum to 1."""
    shares = [task.share if task.no_loss is None and task.n_examples else 0.0 for task in measures.tasks]
    total = sum(shares)
    return [share / total for share in shares] if total > 0 else shares


def why_no_descent(measures: Measures) -> str | None:
    """Return why there is nothing to descend; None where there is."""
    if measures.no_gradient is not None:
        return measures.no_gradient
    if not sum(loss_weights(measures)) > 0:
        reasons = [f"{task.name}: {task.no_loss}" for task in measures.tasks if task.no_loss is not None]
        return f"No task with a weight has a differentiable loss. {' '.join(reasons)}"
    return None
