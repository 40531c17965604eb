"""A sweep of descents over preferences: one point of the Pareto front for each weighting of the tasks.

Weighted sums reach the convex parts of a front only; many coefficients make up for that (experiments/LOG.md).
"""

from collections.abc import Sequence
from itertools import combinations_with_replacement

import numpy as np

from evomerge.optimizers._descent import Descent, loss_weights
from evomerge.optimizers.base import FloatArray, Measures

#: Evaluations of the descent at the center of the preferences, and of each of the others, which begins at a neighbor's.
CENTER, OTHERS = 4.0, 2.0
#: Preferences lie on a lattice of this step, and each is mixed with a little of every task.
_STEPS, _EVENLY = 3, 0.05


class Sweep:
    """Descents for all preferences, one after the other; each begins at the nearest point that is there.

    Args:
        start: Point to start from, (dimension,).
        measures: The tasks; those without a loss get no weight.
        preference: Weight of each task, (n_tasks,), that a preference is relative to.
        seed: Key of the batches.
        center: Evaluations of the first descent.
        others: Evaluations of each other descent.
    """

    def __init__(
        self,
        start: FloatArray,
        measures: Measures,
        preference: FloatArray,
        seed: int,
        *,
        center: float = CENTER,
        others: float = OTHERS,
    ) -> None:
        self._start, self._measures, self._seed = start, measures, seed
        self._budgets = center, others
        usable = np.array([weight > 0 for weight in loss_weights(measures)])
        self.preferences = _lattice(usable, preference)
        self._solved: list[tuple[FloatArray, FloatArray]] = []
        self.descent: Descent = self._begun()

    @property
    def n_solved(self) -> int:
        """Number of preferences whose descent is done."""
        return len(self._solved)

    @property
    def finished(self) -> bool:
        """Whether all preferences have their point."""
        return self.n_solved == len(self.preferences)

    @property
    def evaluations_left(self) -> float:
        """What the steps to come cost, and one score at the end of each descent."""
        if self.finished:
            return 0.0
        rest = len(self.preferences) - self.n_solved - 1
        return self.descent.evaluations_left + 1 + rest * (self._budgets[1] * self.descent.share + 1)

    def next(self) -> None:
        """Keep the point of the descent that is done, and begin the next one."""
        self._solved.append((self.preferences[self.n_solved], self.descent.x))
        if not self.finished:
            self.descent = self._begun()

    def _begun(self) -> Descent:
        wanted, begin = self.preferences[self.n_solved], self._start
        if self._solved:
            begin = min(self._solved, key=lambda solved: float(np.abs(solved[0] - wanted).sum()))[1]
        evaluations = self._budgets[bool(self._solved)]
        return Descent(begin, self._measures.tasks, wanted.tolist(), evaluations, (self._seed, 2, self.n_solved))


def _lattice(usable: Sequence[bool] | FloatArray, preference: FloatArray) -> list[FloatArray]:
    """Return the weights of all preferences, (n_tasks,) each, the most even one first."""
    tasks = np.flatnonzero(usable)
    base = np.where(usable, preference, 0.0)
    base = base / base.sum()
    found = []
    for chosen in combinations_with_replacement(range(len(tasks)), _STEPS):
        shares = np.zeros(len(base))
        shares[tasks] = np.bincount(chosen, minlength=len(tasks)) / _STEPS
        weights = base * ((1 - _EVENLY) * shares * len(tasks) + _EVENLY)
        found.append(weights / weights.sum())
    center = base
    found.sort(key=lambda weights: float(np.abs(weights - center).sum()))
    return [center, *(weights for weights in found if float(np.abs(weights - center).sum()) > 1e-9)]
