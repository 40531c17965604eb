"""A front as a knob: positions from the best merge on one task to the best on another.

The merges of the front lie along the knob by the distances between their scores. Between two neighbors, coefficients
are interpolated: a path of models that trade off the tasks, which need not be as good as the front.
Pareto manifold learning (Dimitriadis et al., 2023), https://arxiv.org/abs/2210.09759
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from evaluators._nearest import did_you_mean
from evomerge import plugins
from evomerge.plugins import PluginError, PluginSpec
from evomerge.results.coordinates import method_at, methods_of
from evomerge.results.front import Front
from evomerge.results.pick import ChoiceError
from evomerge.results.ranking import losses_of
from evomerge.results.scored import ScoredModel
from evomerge.statistics import pareto
from evomerge.study import Study
from search_spaces.base import SearchSpace

#: Positions that differ by less are the same.
_SAME = 1e-9


@dataclass(frozen=True, eq=False)
class Stop:
    """A scored merge of the front and its position on the knob, in [0, 1]."""

    point: ScoredModel
    t: float


@dataclass(frozen=True, eq=False)
class Setting:
    """A position of the knob.

    Args:
        t: The position, in [0, 1].
        first: The merge there, or the neighbor before it.
        second: The neighbor after it; None where the position is that of a scored merge, or where its neighbors cannot
            be interpolated, so that the nearer one is taken.
        share: The share of the second neighbor in the coefficients, in (0, 1); 0 without one.
    """

    t: float
    first: Stop
    second: Stop | None = None
    share: float = 0.0

    @property
    def is_evaluated(self) -> bool:
        """Whether the merge is one that was scored."""
        return self.second is None

    @property
    def is_moved(self) -> bool:
        """Whether a scored merge is taken that is at another position."""
        return self.is_evaluated and abs(self.first.t - self.t) > _SAME


@dataclass(frozen=True, eq=False)
class Knob:
    """The scored merges along a front, in order, and which neighbors can be interpolated.

    Args:
        split: The split that the front is measured on.
        tasks: The task that is best at 0, and the one that is best at 1.
        stops: At least two merges; the first is at 0 and the last at 1.
        joined: For each pair of neighbors, whether their coefficients can be interpolated.
        left_out: Labels of merges of the front without a point in the search space.
    """

    split: str
    tasks: tuple[str, str]
    stops: tuple[Stop, ...]
    joined: tuple[bool, ...]
    left_out: tuple[str, ...]

    def at(self, t: float) -> Setting:
        """Return the setting at a position. Raises ChoiceError outside of [0, 1]."""
        if not 0.0 <= t <= 1.0:
            raise ChoiceError(
                f"A position on the knob is from 0, best on {self.tasks[0]}, to 1, best on {self.tasks[1]}; got {t:g}."
            )
        nearest = min(self.stops, key=lambda stop: abs(stop.t - t))
        if abs(nearest.t - t) <= _SAME:
            return Setting(t, nearest)
        after = next(n for n, stop in enumerate(self.stops) if stop.t > t)
        first, second = self.stops[after - 1 : after + 1]
        if not self.joined[after - 1]:
            return Setting(t, nearest)
        return Setting(t, first, second, (t - first.t) / (second.t - first.t))

    def steps(self, n_steps: int) -> tuple[Setting, ...]:
        """Return settings at equal distances, the ends included."""
        return tuple(self.at(float(t)) for t in np.linspace(0.0, 1.0, n_steps))


def knob(study: Study, front: Front, tasks: tuple[str, str] | None = None) -> Knob:
    """Arrange the merges of a front from the best on one task to the best on another.

    Of more than two tasks, only the merges count that no other one beats on these two. Raises ChoiceError without
    two such merges, for unknown tasks, and if there are more than two tasks and none are named.
    """
    first, second = _pair(front, tasks)
    found = [point for point in front.choices if point.trial.x is not None]
    left_out = tuple(point.label for point in front.choices if point.trial.x is None)
    columns = [front.tasks.index(first), front.tasks.index(second)]
    losses = losses_of(found)[:, columns] if found else np.zeros((0, 2))
    kept = np.flatnonzero(pareto.non_dominated(losses)) if found else np.zeros(0, dtype=np.int64)
    # Equal scores are one stop, which the better merge by the study's own objective has.
    order = sorted(kept.tolist(), key=lambda row: (*losses[row], found[row].rank))
    rows = [row for n, row in enumerate(order) if n == 0 or (losses[row] != losses[order[n - 1]]).any()]
    if len(rows) < 2:
        few = f"there is only {found[rows[0]].label}" if rows else "there are none"
        more = "" if front.split == "search" else " The search split may have more: --split search."
        raise ChoiceError(
            f"A knob from {first} to {second} needs two merges on the front of the {front.split} split that are points "
            f"of the search space; {few}.{more}"
        )
    scaled = (losses[rows] - losses[rows].min(axis=0)) / np.ptp(losses[rows], axis=0)
    way = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(scaled, axis=0), axis=1))])
    stops = tuple(Stop(found[row], float(t)) for row, t in zip(rows, way / way[-1], strict=True))
    return Knob(front.split, (first, second), stops, _joined(study, stops), left_out)


def _pair(front: Front, tasks: tuple[str, str] | None) -> tuple[str, str]:
    listed = ", ".join(front.tasks)
    if tasks is None:
        if len(front.tasks) != 2:
            raise ChoiceError(
                f"A knob goes from one task to another; this study has {len(front.tasks)} ({listed}). "
                + ("Name two of them with --between TASK,TASK." if len(front.tasks) > 2 else "It needs two.")
            )
        return front.tasks[0], front.tasks[1]
    for task in tasks:
        if task not in front.tasks:
            raise ChoiceError(f"No task named {task!r}; there are {listed}.{did_you_mean(task, front.tasks)}")
    if tasks[0] == tasks[1]:
        raise ChoiceError(f"A knob goes from one task to another; got {tasks[0]} twice.")
    return tasks


def _joined(study: Study, stops: tuple[Stop, ...]) -> tuple[bool, ...]:
    """Return for each pair of neighbors whether both are merges by the same method, and no paths."""
    paths = _arranges_blocks(study)
    points, methods = [stop.point.trial.x for stop in stops], methods_of(study)
    picked = [None if x is None else method_at(methods, x) for x in points]
    return tuple(not paths and a == b for a, b in pairwise(picked))


def _arranges_blocks(study: Study) -> bool:
    """Return whether candidates are paths through blocks; also if the space is not installed here."""
    kind = PluginSpec.read(study.configuration.get("space", "auto")).kind
    if kind == "auto":
        return False
    try:
        space: type[SearchSpace] = plugins.load("search space", kind, SearchSpace)
    except PluginError:
        return True
    return space.arranges_blocks
