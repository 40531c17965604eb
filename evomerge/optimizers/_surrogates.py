"""Surrogates: what a loss is expected to be where it was not measured, chosen by leave-one-out error.

Quadratic in the merging coefficients after MAP (Li et al., 2024, https://arxiv.org/abs/2406.07529), a Gaussian
process, or a quadratic with a process for what it misses.

The choice is between the last two. A quadratic's ridge is what makes its leave-one-out error small, so that error
flatters it: chosen by it, fronts came out further off than without it, and where a quadratic is all there is to a
loss, the process that is added to it comes out as good as zero.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from evomerge.optimizers._links import Data, read
from evomerge.optimizers._process import Process, fit_process
from evomerge.optimizers._quadratic import fit_quadratic
from evomerge.optimizers.base import FloatArray, Observation

Choice = Literal["auto", "quadratic", "gp", "quadratic_gp"]
#: Measurements below which no surrogate is fitted.
FEWEST = 3

FAMILIES: Mapping[str, Callable[[Data], Process]] = {
    "quadratic": lambda data: fit_quadratic(data)[0],
    "gp": fit_process,
    "quadratic_gp": lambda data: fit_process(data, fit_quadratic(data)[1]),
}
#: Families whose leave-one-out errors chose nothing in them, so that `auto` can compare them.
_HONEST = ("gp", "quadratic_gp")


@dataclass(frozen=True, eq=False)
class Surrogate:
    """One objective's model.

    name: its family. left_out: losses (n_points,) expected at the measured points, each from the others; error: their
    root mean square error, in the loss's unit. calibration: what standard errors are multiplied with, so that left-out
    losses miss by as much as the errors say.
    """

    name: str
    data: Data
    process: Process
    left_out: FloatArray
    error: float
    calibration: float = 1.0

    @classmethod
    def of(cls, name: str, data: Data, process: Process) -> "Surrogate":
        """The model that `process` makes of the data it was fitted on."""
        latents, variances = process.left_out()
        left_out = data.link.losses(latents)
        error = float(np.sqrt(np.mean((left_out - data.losses) ** 2)))
        raw = cls(name, data, process, left_out, error)
        claimed = float(np.sqrt(np.mean(raw._doubt(latents, np.sqrt(variances)) ** 2)))
        return replace(raw, calibration=min(max(error / max(claimed, 1e-12), 0.5), 3.0))

    def predict(self, points: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Expected losses (n,) and their standard errors (n,) at points (n, dimension)."""
        mean, deviation = self.process.mean(points), self.process.deviation(points)
        return self.data.link.losses(mean), self.calibration * self._doubt(mean, deviation)

    def _doubt(self, mean: FloatArray, deviation: FloatArray) -> FloatArray:
        # Half the distance between the ends: where a link is bent, the slope at the middle says too little.
        ends = [self.data.link.losses(mean + side * deviation) for side in (-1.0, 1.0)]
        return np.asarray(np.abs(ends[1] - ends[0]) / 2.0)

    def losses_and_gradients(self, points: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Expected losses (n,) and their gradients (n, dimension)."""
        mean, gradient = self.process.mean_and_gradient(points)
        link = self.data.link
        return link.losses(mean), link.slopes(mean)[:, None] * gradient


@dataclass(frozen=True, eq=False)
class Surrogates:
    """One model per objective."""

    models: tuple[Surrogate, ...]

    def predict(self, points: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Expected losses (n, n_objectives) and their standard errors (n, n_objectives)."""
        both = [model.predict(points) for model in self.models]
        return np.stack([losses for losses, _ in both], axis=1), np.stack([errors for _, errors in both], axis=1)

    def losses_and_gradients(self, points: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Expected losses (n, n_objectives) and their gradients (n, n_objectives, dimension)."""
        both = [model.losses_and_gradients(points) for model in self.models]
        return np.stack([losses for losses, _ in both], axis=1), np.stack([slopes for _, slopes in both], axis=1)

    def believing(self, points: Sequence[FloatArray]) -> "Surrogates":
        """As if what is expected at `points` had been measured there."""
        if not len(points):
            return self
        added = np.array(points)
        return Surrogates(tuple(replace(m, process=m.process.believing(added)) for m in self.models))


def fit(observations: Sequence[Observation], n_objectives: int, choice: Choice = "auto") -> Surrogates:
    """Per objective the family of `choice`, or the process with the least leave-one-out error; so is the link.

    observations: at least FEWEST with losses.
    """
    names = _HONEST if choice == "auto" else (choice,)
    return Surrogates(tuple(_fit_one(read(observations, m), names) for m in range(n_objectives)))


def _fit_one(suitable: Sequence[Data], names: Sequence[str]) -> Surrogate:
    # Links are compared by their quadratics, which cost least.
    data = suitable[0]
    if len(suitable) > 1:
        data = min(suitable, key=lambda each: Surrogate.of("quadratic", each, fit_quadratic(each)[0]).error)
    fitted = [Surrogate.of(name, data, FAMILIES[name](data)) for name in names]
    return min(fitted, key=lambda surrogate: surrogate.error)
