"""Surrogates: models of a loss over the cube, selected by leave-one-out error.

A quadratic in the merging coefficients after MAP (Li et al., 2024, https://arxiv.org/abs/2406.07529), a Gaussian
process, or a quadratic plus a process for its residual.
Only the last two are compared automatically. A quadratic's ridge is tuned on its leave-one-out error, which makes that
error optimistic: selecting by it gave fronts with larger errors than excluding the quadratic, and where a loss is truly
quadratic, the process added to it shrinks to almost zero.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np

from evomerge.optimizers._depth_process import fit_depth_process
from evomerge.optimizers._links import Data, read
from evomerge.optimizers._process import Process, fit_process
from evomerge.optimizers._quadratic import fit_quadratic
from evomerge.optimizers.base import FloatArray, Observation, Positions

Choice = Literal["auto", "quadratic", "gp", "quadratic_gp"]
#: Minimum number of measurements for fitting a surrogate.
FEWEST = 3

FAMILIES: Mapping[str, Callable[[Data], Process]] = {
    "quadratic": lambda data: fit_quadratic(data)[0],
    "gp": fit_process,
    "quadratic_gp": lambda data: fit_process(data, fit_quadratic(data)[1]),
}
#: Families not tuned on their leave-one-out errors, so that `auto` can compare them fairly.
_HONEST = ("gp", "quadratic_gp")


@dataclass(frozen=True, eq=False)
class Surrogate:
    """A model of one objective.

    name: family. left_out: leave-one-out predictions of the losses, (n_points,). error: their root mean square error,
    in units of the loss. calibration: factor for standard errors that makes them match the leave-one-out residuals.
    """

    name: str
    data: Data
    process: Process
    left_out: FloatArray
    error: float
    calibration: float = 1.0

    @classmethod
    def of(cls, name: str, data: Data, process: Process) -> "Surrogate":
        """Wrap `process` together with the data it was fitted to."""
        latents, variances = process.left_out()
        left_out = data.link.losses(latents)
        error = float(np.sqrt(np.mean((left_out - data.losses) ** 2)))
        raw = cls(name, data, process, left_out, error)
        claimed = float(np.sqrt(np.mean(raw._doubt(latents, np.sqrt(variances)) ** 2)))
        return replace(raw, calibration=min(max(error / max(claimed, 1e-12), 0.5), 3.0))

    def predict(self, points: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the expected losses (n,) and their standard errors (n,) at points (n, dimension)."""
        mean, deviation = self.process.mean(points), self.process.deviation(points)
        return self.data.link.losses(mean), self.calibration * self._doubt(mean, deviation)

    @property
    def r_squared(self) -> float:
        """Leave-one-out R^2 of the losses; 0 where they do not vary."""
        variance = float(self.data.losses.var())
        return 1.0 - self.error**2 / variance if variance else 0.0

    def _doubt(self, mean: FloatArray, deviation: FloatArray) -> FloatArray:
        # Half the distance between the ends: for a curved link, the slope at the mean underestimates the error.
        ends = [self.data.link.losses(mean + side * deviation) for side in (-1.0, 1.0)]
        return np.asarray(np.abs(ends[1] - ends[0]) / 2.0)

    def losses_and_gradients(self, points: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the expected losses (n,) and their gradients (n, dimension)."""
        mean, gradient = self.process.mean_and_gradient(points)
        link = self.data.link
        return link.losses(mean), link.slopes(mean)[:, None] * gradient


@dataclass(frozen=True, eq=False)
class Surrogates:
    """One model per objective."""

    models: tuple[Surrogate, ...]

    def predict(self, points: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the expected losses (n, n_objectives) and their standard errors (n, n_objectives)."""
        both = [model.predict(points) for model in self.models]
        return np.stack([losses for losses, _ in both], axis=1), np.stack([errors for _, errors in both], axis=1)

    def losses_and_gradients(self, points: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the expected losses (n, n_objectives) and their gradients (n, n_objectives, dimension)."""
        both = [model.losses_and_gradients(points) for model in self.models]
        return np.stack([losses for losses, _ in both], axis=1), np.stack([slopes for _, slopes in both], axis=1)

    def believing(self, points: Sequence[FloatArray]) -> "Surrogates":
        """Condition on the expected losses at `points`, as if they had been measured."""
        if not len(points):
            return self
        added = np.array(points)
        return Surrogates(tuple(replace(m, process=m.process.believing(added)) for m in self.models))


def fit(
    observations: Sequence[Observation], n_objectives: int, choice: Choice = "auto", positions: Positions | None = None
) -> Surrogates:
    """Fit the family `choice` to each objective; "auto" selects the process with the smallest leave-one-out error. The
    link is selected the same way.

    observations: at least FEWEST successful ones. positions: where the coordinates act, if there are many of them;
    "auto" then selects the process that relates neighboring depths.
    """
    families = {name: FAMILIES[name] for name in (_HONEST if choice == "auto" else (choice,))}
    if positions is not None and choice == "auto":
        families = {"depth": partial(fit_depth_process, positions=positions)}
    return Surrogates(tuple(_fit_one(read(observations, m), families) for m in range(n_objectives)))


def _fit_one(suitable: Sequence[Data], families: Mapping[str, Callable[[Data], Process]]) -> Surrogate:
    # Links are compared by their quadratics, which are the cheapest fits.
    data = suitable[0]
    if len(suitable) > 1:
        data = min(suitable, key=lambda each: Surrogate.of("quadratic", each, fit_quadratic(each)[0]).error)
    fitted = [Surrogate.of(name, data, family(data)) for name, family in families.items()]
    return min(fitted, key=lambda surrogate: surrogate.error)
