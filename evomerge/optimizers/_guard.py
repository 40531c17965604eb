"""The guard of a gradient: whether the true metric, on all search examples, follows the loss that was descended."""

import math
from dataclasses import dataclass

import numpy as np

from evomerge.optimizers.base import Measures, Observation

#: Standard errors by which a point may be worse than the start before the loss counts as misleading.
_LEVEL = 1.0


@dataclass(frozen=True)
class Comparison:
    """How much better a point is than the start, with the standard error of the paired difference.

    gain: in losses, above 0 is better. worse: names of the tasks that lost by more than one standard error.
    """

    gain: float
    error: float
    worse: tuple[str, ...]

    @property
    def unmoved(self) -> bool:
        """Whether no example is scored differently."""
        return self.gain == 0.0 and self.error == 0.0

    @property
    def passed(self) -> bool:
        """Whether the point is not worse than the start by more than one standard error."""
        return self.gain >= -_LEVEL * self.error


def compare(start: Observation, point: Observation, measures: Measures) -> Comparison:
    """Compare a point with the start on the same examples. A point that failed is infinitely worse."""
    if point.losses is None or start.losses is None:
        return Comparison(-math.inf, 0.0, tuple(task.name for task in measures.tasks))
    variance, worse = 0.0, []
    for task, before, after in zip(measures.tasks, start.examples, point.examples, strict=True):
        ahead = before - after
        error = math.sqrt(float(np.var(ahead)) / len(ahead))
        variance += (task.share * error) ** 2
        if float(ahead.mean()) < -_LEVEL * error:
            worse.append(task.name)
    ahead = start.losses - point.losses
    gain = ahead @ [task.share for task in measures.tasks] if len(ahead) > 1 else ahead[0]
    return Comparison(float(gain), math.sqrt(variance), tuple(worse))
