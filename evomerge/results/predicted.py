"""The front that an optimizer expects beyond what was measured, from the ledger alone: no model is opened for it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evomerge import plugins
from evomerge.feedback import Feedback
from evomerge.objective import FloatArray, Objective
from evomerge.optimizers.base import Optimizer, Prediction
from evomerge.plugins import PluginSpec
from evomerge.results.front import Point
from evomerge.results.spread import spread
from evomerge.statistics import Estimate
from evomerge.study import Study
from evomerge.trial import START

#: So many predicted points stand in a table.
MANY = 12


@dataclass(frozen=True, eq=False)
class Predicted:
    """A point that was not measured, and the nearest one that was.

    number: its place among all that are predicted now, from 1 on; another trial may renumber them. x: (dimension,).
    tasks: predicted scores as people read them. beaten: whether a measured point is at least as good on every task.
    distance: root mean square difference of the coordinates: 0 is the same point, 1 the opposite corner.
    """

    number: int
    x: FloatArray
    tasks: Mapping[str, Estimate]
    beaten: bool
    nearest: Point
    distance: float


def predicted(study: Study, objective: Objective, measured: Sequence[Point]) -> tuple[Predicted, ...]:
    """What the study's optimizer predicts of its objectives; empty where it has no model of them.

    measured: the points of the search split. Raises PluginError or OptimizerError where the optimizer cannot be built.
    """
    near = [(point, x) for point in measured if (x := study.entries[point.number].trial.x) is not None]
    if not objective.pareto or not near:
        return ()
    cloud = np.stack([x for _, x in near])
    losses = np.stack([point.losses for point in measured])
    found = []
    for number, prediction in enumerate(predictions(study, objective), 1):
        distances = np.sqrt(((cloud - prediction.x) ** 2).mean(axis=1))
        row = int(distances.argmin())
        means = objective.as_scores(prediction.losses)
        errors = zip(means.items(), prediction.errors, strict=True)
        tasks = {task: Estimate(mean, float(error), 0) for (task, mean), error in errors}
        beaten = bool((losses <= prediction.losses).all(axis=1).any())
        found.append(Predicted(number, prediction.x, tasks, beaten, near[row][0], float(distances[row])))
    return tuple(found)


def for_table(points: Sequence[Predicted]) -> tuple[Predicted, ...]:
    """Of the points that no measured one beats at most MANY, the first among them, spread over all of them."""
    open_ = [point for point in points if not point.beaten]
    if not open_:
        return ()
    means = np.array([[value.mean for value in point.tasks.values()] for point in open_])
    return tuple(open_[row] for row in spread(means, MANY))


def predictions(study: Study, objective: Objective) -> tuple[Prediction, ...]:
    """The optimizer as it was after everything that the ledger holds, asked for its predictions."""
    spec = PluginSpec.read(study.configuration["optimizer"])
    if plugins.load("optimizer", spec.kind, Optimizer).predictions is Optimizer.predictions:
        return ()
    points = {entry.trial.label: entry.trial.x for entry in study.entries.values() if entry.trial.x is not None}
    start = points.get(START)
    optimizer: Optimizer = plugins.build(
        "optimizer",
        spec,
        Optimizer,
        dimension=len(next(iter(points.values()))),
        n_objectives=objective.n_objectives,
        seed=study.configuration.get("seed", 0),
        start=start,
    )
    if objective.pareto:
        optimizer.prefer(list(objective.weights.values()))
    parents = {e.trial.label for e in study.entries.values() if e.trial.split == "search" and e.trial.origin.is_parent}
    feedback = Feedback(optimizer, objective, parents)
    feedback.replay(study)
    return optimizer.predictions()
