"""A sweep of descents over preferences: one point of the Pareto front for each weighting of the tasks.

Weighted sums reach the convex parts of a front only; many coefficients make up for that (experiments/LOG.md).
"""

from collections.abc import Mapping, Sequence
from itertools import combinations_with_replacement

import numpy as np

from evomerge.optimizers._descent import Descent, loss_weights
from evomerge.optimizers.base import FloatArray, Measures, Observation, Proposal

#: Evaluations of the descent at the center of the preferences, and of each of the others, which begins at a neighbor's.
CENTER, OTHERS = 4.0, 2.0
#: Preferences lie on a lattice of this step, and each is mixed with a little of every task.
_STEPS, _EVENLY = 3, 0.05


class Sweep:
    """Descents for all preferences; each begins where that of the nearest preference before it ended.

    What a descent begins from does not depend on the number of workers, so that several descents can run at once.
    Points and examples identify the descent that a trial belongs to.

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
        self._measures, self._seed = measures, seed
        self._budgets = center, others
        usable = np.array([weight > 0 for weight in loss_weights(measures)])
        self.preferences = _lattice(usable, preference)
        self._descents: dict[int, Descent] = {0: self._descent(0, start)}
        self._solved: set[int] = set()

    @property
    def center(self) -> Descent:
        """The first descent; the others begin when its point is scored."""
        return self._descents[0]

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
        running = sum(descent.evaluations_left + 1 for descent in self._open.values())
        rest = len(self.preferences) - len(self._descents)
        return running + rest * (self._budgets[1] * self.center.share + 1)

    @property
    def furthest(self) -> FloatArray | None:
        """The current point of the descent that has taken most steps and whose end is not scored; None before any."""
        begun = [descent for descent in self._open.values() if descent.step > 0]
        return max(begun, key=lambda descent: descent.step).x if begun else None

    def ask(self, pending: Mapping[int, FloatArray]) -> Proposal | None:
        """Return the next step, or the score at the end, of the first descent that has no trial among `pending`."""
        idle = self._idle(list(pending.values()))
        if idle is None:
            return None
        if idle.finished:
            return Proposal(idle.x, unraced=True)
        return Proposal(idle.x, rows=idle.rows(), gradient=idle.weights)

    def take(self, step: Observation) -> None:
        """Take a step of the descent that asked for this gradient."""
        for descent in self._open.values():
            if not descent.finished and _same(descent.x, step.x) and descent.rows() == step.rows:
                descent.take(step.gradient)
                return

    def ends(self, x: FloatArray) -> bool:
        """Whether a point is the one with which a descent ends, and is not scored yet."""
        return any(descent.finished and _same(descent.x, x) for descent in self._open.values())

    def solve(self, x: FloatArray) -> None:
        """Take note that the end of a descent was scored at a point, and begin the descents that waited for it."""
        ended = [number for number, descent in self._open.items() if descent.finished]
        if not ended:
            return
        number = min(ended, key=lambda i: _distance(self._descents[i].x, x))  # a known point is asked for beside it
        self._solved.add(number)
        for other in range(1, len(self.preferences)):
            if self._before(other) == number:
                self._descents[other] = self._descent(other, self._descents[number].x)

    @property
    def _open(self) -> dict[int, Descent]:
        """The descents that have begun and whose ends are not scored, by the number of their preference."""
        return {number: self._descents[number] for number in sorted(self._descents) if number not in self._solved}

    def _idle(self, pending: list[FloatArray]) -> Descent | None:
        """Return the first descent that waits for no trial. Siblings begin at one point, and wait in their order."""
        idle = list(self._open.values())
        elsewhere = []
        for x in pending:
            waits = next((descent for descent in idle if _same(descent.x, x)), None)
            if waits is None:
                elsewhere.append(x)
            else:
                idle.remove(waits)
        for x in elsewhere:
            ended = [descent for descent in idle if descent.finished]
            if ended:
                idle.remove(min(ended, key=lambda descent: _distance(descent.x, x)))
        return idle[0] if idle else None

    def _before(self, number: int) -> int:
        """Return the preference at whose point a descent begins: the nearest one before it in the lattice."""
        wanted = self.preferences[number]
        return min(range(number), key=lambda other: _distance(self.preferences[other], wanted))

    def _descent(self, number: int, begin: FloatArray) -> Descent:
        evaluations, weights = self._budgets[number > 0], self.preferences[number].tolist()
        return Descent(begin, self._measures.tasks, weights, evaluations, (self._seed, 2, number))


def _same(a: FloatArray, b: FloatArray) -> bool:
    return bool(np.array_equal(a, b))


def _distance(a: FloatArray, b: FloatArray) -> float:
    return float(np.abs(a - b).sum())


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
