"""Bayesian adaptive sampling of MAP (Li et al., 2024), for few models. https://arxiv.org/abs/2406.07529

Samples where the surrogates are least certain. Unlike the released code, every ask refits and rescores with all
measurements, and residuals are leave-one-out, since some surrogates interpolate the other points.
"""

from collections.abc import Mapping
from itertools import product
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from evomerge.optimizers._design import full_size
from evomerge.optimizers._predicted_front import BEYOND_LIMITS, Forecaster, PredictedFront, recommended
from evomerge.optimizers._surrogates import Choice
from evomerge.optimizers._threads import one_thread
from evomerge.optimizers.base import FloatArray, Observation, Optimizer, OptimizerError, Prediction, Proposal

_MOST_COORDINATES = 6
#: Sampled distances from the corner at 0.
_RADII = (0.2, 0.8)
#: The score of a bin: weight of the spread, number of deletions, their fraction, temperature of the draw.
_SPREAD, _DELETIONS, _DELETED, _TEMPERATURE = 0.5, 30, 0.2, 0.07


class MapBayesian(Optimizer):
    """Draws points in bins of directions, favoring bins with large residuals. Up to 6 coordinates, any objectives.

    x = r s(phi) with r in [0.2, 0.8] and angles phi in [0, pi/2], divided into 4 equal parts for fewer than 4
    coordinates, else into 2. The emptiest bins come first until `initial` points are measured.

    Args:
        initial: Measurements before the first prediction; by default the number of coefficients of a quadratic.
        surrogate: As for `map`, which also verifies its front and decides when to stop.
    """

    max_objectives: ClassVar[int | None] = None

    def __init__(
        self,
        dimension: int,
        n_objectives: int,
        seed: int,
        start: FloatArray | None = None,
        *,
        initial: int | None = None,
        surrogate: Choice = "auto",
    ) -> None:
        super().__init__(dimension, n_objectives, seed, start)
        if dimension > _MOST_COORDINATES:
            raise OptimizerError(f"map_bayesian supports up to {_MOST_COORDINATES} coordinates; there are {dimension}.")
        self._forecaster = Forecaster(seed, full_size(dimension) if initial is None else initial, surrogate)
        self._parts = 4 if dimension < 4 else 2
        self._bins = list(product(range(self._parts), repeat=dimension - 1))

    def _ask(self, number: int, pending: Mapping[int, FloatArray]) -> Proposal:
        rng = self._rng(number)
        told = self._succeeded()
        if len(told) < self._forecaster.initial:
            filled = np.bincount(
                [self._bin(x) for x in (*(seen.x for seen in told), *pending.values())], minlength=len(self._bins)
            )
            chosen = rng.choice(np.flatnonzero(filled == filled.min()))
        else:
            chosen = rng.choice(len(self._bins), p=softmax(self._scores(rng) / _TEMPERATURE))
        angles = (np.array(self._bins[chosen]) + rng.random(self.dimension - 1)) * np.pi / 2 / self._parts
        return Proposal(rng.uniform(*_RADII) * _direction(angles))

    def _tell(self, observation: Observation) -> None:
        """Do nothing: the base class keeps the observations."""

    @one_thread
    def predictions(self) -> tuple[Prediction, ...]:
        """Return the predicted front; none before `initial` points are measured."""
        return self._front().predictions() if len(self._succeeded()) >= self._forecaster.initial else ()

    def why_no_predictions(self) -> str:
        """Return what is missing: measurements, or a predicted point within the limits."""
        measured, initial = len(self._succeeded()), self._forecaster.initial
        if measured >= initial:
            return BEYOND_LIMITS
        return f"map_bayesian predicts a front once {initial} points are measured; {measured} are"

    @one_thread
    def recommend(self) -> FloatArray | None:
        """Return the predicted point that the preference selects, if it beats all measured ones by more than noise."""
        measured = np.array([seen.losses for seen in self._succeeded()])
        return recommended(self.predictions(), measured, self.preference, self.limits)

    def _scores(self, rng: np.random.Generator) -> FloatArray:
        """Return each bin's score: mean squared residual plus its spread under deletions; -inf if empty. (n_bins,)"""
        models = self._front().surrogates.models
        scaled = [(model.left_out - model.data.losses) / max(np.ptp(model.data.losses), 1e-12) for model in models]
        squares = np.mean(np.square(scaled), axis=0)
        at = np.array([self._bin(x) for x in models[0].data.x])
        scores = np.full(len(self._bins), -np.inf)
        for index in np.unique(at):
            inside = squares[at == index]
            kept = len(inside) - int(_DELETED * len(inside))
            means = [rng.choice(inside, kept, replace=False).mean() for _ in range(_DELETIONS)]
            scores[index] = inside.mean() + _SPREAD * np.std(means)
        return scores

    def _bin(self, x: FloatArray) -> int:
        parts = np.minimum(_angles(x) / (np.pi / 2) * self._parts, self._parts - 1).astype(np.int64)
        return int(np.ravel_multi_index(parts, (self._parts,) * len(parts))) if len(parts) else 0

    def _front(self) -> PredictedFront:
        return self._forecaster.front(self._succeeded(), self.preference, self.limits)

    def _succeeded(self) -> list[Observation]:
        return [seen for seen in self._told.values() if seen.losses is not None]


def _direction(angles: FloatArray) -> FloatArray:
    """Return the unit vector (n + 1,) of `angles` (n,): cos, sin cos, sin sin cos, ..., sin ... sin."""
    sines = np.concatenate([[1.0], np.cumprod(np.sin(angles))])
    return np.asarray(sines * np.append(np.cos(angles), 1.0))


def _angles(x: FloatArray) -> NDArray[np.float64]:
    """Return the angles (n - 1,) of x (n,): the inverse of `_direction`."""
    rest = np.sqrt(np.cumsum(x[::-1] ** 2)[::-1])
    return np.asarray(np.arctan2(rest[1:], x[:-1]), dtype=np.float64)
