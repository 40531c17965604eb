"""The front that an optimizer expects beyond what was measured, from the ledger alone: no model is opened for it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evomerge.objective import FloatArray
from evomerge.optimizers.base import Prediction
from evomerge.results.front import Front
from evomerge.results.ranking import losses_of
from evomerge.results.scored import ScoredModel
from evomerge.results.spread import spread
from evomerge.statistics import Estimate

#: Maximum number of predicted points in a table.
MANY = 12


@dataclass(frozen=True, eq=False, repr=False)
class Predicted:
    """A point that was not measured, and the nearest one that was.

    number: its place among all that are predicted now, from 1 on; another trial may renumber them. x: (dimension,).
    tasks: predicted scores as people read them. dominated: whether a measured point is at least as good on every task.
    distance: root mean square difference of the coordinates: 0 is the same point, 1 the opposite corner.
    """

    number: int
    x: FloatArray
    tasks: Mapping[str, Estimate]
    dominated: bool
    nearest: ScoredModel
    distance: float

    def __repr__(self) -> str:
        tasks = {task: float(f"{value.mean:.4g}") for task, value in self.tasks.items()}
        return f"Predicted(number={self.number}, {tasks=}, nearest={self.nearest.label!r})"


def predicted(searched: Front, predictions: Callable[[], Sequence[Prediction]]) -> tuple[Predicted, ...]:
    """What the study's optimizer predicts of its objectives, beside what was measured; nothing but of a Pareto search.

    searched: the front of the search split. predictions: what it predicts; asked only where a point was measured.
    """
    objective = searched.objective
    near = [(point, point.trial.x) for point in searched.points if point.trial.x is not None]
    if not objective.pareto or not near:
        return ()
    cloud = np.stack([x for _, x in near])
    losses = losses_of(searched.points)
    found = []
    for number, prediction in enumerate(predictions(), 1):
        distances = np.sqrt(((cloud - prediction.x) ** 2).mean(axis=1))
        row = int(distances.argmin())
        means = objective.as_scores(prediction.losses)
        errors = zip(means.items(), prediction.errors, strict=True)
        tasks = {task: Estimate(mean, float(error), 0) for (task, mean), error in errors}
        dominated = bool((losses <= prediction.losses).all(axis=1).any())
        found.append(Predicted(number, prediction.x, tasks, dominated, near[row][0], float(distances[row])))
    return tuple(found)


def for_table(points: Sequence[Predicted]) -> tuple[Predicted, ...]:
    """Choose at most MANY points not dominated by a measured one, spread over all of them; the first is included."""
    open_ = [point for point in points if not point.dominated]
    if not open_:
        return ()
    means = np.array([[value.mean for value in point.tasks.values()] for point in open_])
    return tuple(open_[row] for row in spread(means, MANY))
