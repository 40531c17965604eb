"""The predicted Pareto front of surrogates fitted to the measurements, and the point to recommend from it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from evomerge.optimizers._regions import Region, Whole
from evomerge.optimizers._surrogates import FAMILIES, FEWEST, Choice, Surrogates, fit
from evomerge.optimizers.base import FloatArray, Observation, OptimizerError, Positions, Prediction

#: Scalarizations for selecting the next measurement, and for the reported front: with three objectives, a few dozen
#: points cover a tenth less hypervolume.
_SPARSE, _DENSE = 40, 200


#: Reason why there may be no predictions despite a model.
BEYOND_LIMITS = "no point is expected to stay within what `keep` allows"


@dataclass(frozen=True, eq=False)
class PredictedFront:
    """Models of the losses, and their predicted non-dominated points.

    preference, limits: (n_objectives,). region: where its points lie.
    """

    surrogates: Surrogates
    seed: int
    preference: FloatArray
    limits: FloatArray
    region: Region

    @cached_property
    def x(self) -> FloatArray:
        """Points (n, dimension) spread over the front; n is a few dozen."""
        return self._solve(_SPARSE)

    def predictions(self) -> tuple[Prediction, ...]:
        """Return some hundreds of points of the front, each within `limits` up to its standard errors."""
        points = self._solve(_DENSE)
        losses, errors = self.surrogates.predict(points)
        return tuple(
            Prediction(x, expected, doubt)
            for x, expected, doubt in zip(points, losses, errors, strict=True)
            if (expected - doubt <= self.limits).all()
        )

    def _solve(self, n_weights: int) -> FloatArray:
        return self.region.solve(
            self.surrogates.losses_and_gradients,
            *self.measured,
            seed=self.seed,
            preference=self.preference,
            limits=self.limits,
            n_weights=n_weights,
        )

    def elsewhere(self, key: int) -> FloatArray:
        """Return points off the front, (n, dimension), that may be worth measuring."""
        return self.region.elsewhere(*self.measured, key)

    @property
    def measured(self) -> tuple[FloatArray, FloatArray]:
        """Points (n_points, dimension) and losses (n_points, n_objectives) that the models were fitted to."""
        models = self.surrogates.models
        return models[0].data.x, np.stack([model.data.losses for model in models], axis=1)


class Forecaster:
    """Fits surrogates once per state of a study, however often it is called.

    initial: number of measurements before the first prediction. Raises OptimizerError for invalid options.
    """

    def __init__(self, seed: int, initial: int, choice: Choice) -> None:
        if initial < FEWEST:
            raise OptimizerError(f"initial must be at least {FEWEST}; it is {initial}.")
        if choice != "auto" and choice not in FAMILIES:
            raise OptimizerError(f"surrogate must be one of auto, {', '.join(FAMILIES)}; it is {choice!r}.")
        self.initial = initial
        #: Where the coordinates act, if the surrogates are to know.
        self.positions: Positions | None = None
        self._seed, self._choice = seed, choice
        self._latest: tuple[tuple[int, bytes, bytes], PredictedFront] | None = None

    def front(
        self,
        succeeded: Sequence[Observation],
        preference: FloatArray,
        limits: FloatArray,
        region: Region = Whole(),  # noqa: B008 - frozen
    ) -> PredictedFront:
        """Predict the front from at least FEWEST successful observations, to which later calls may add.

        region: a function of the observations.
        """
        state = (len(succeeded), preference.tobytes(), limits.tobytes())
        if self._latest is None or self._latest[0] != state:
            surrogates = fit(succeeded, len(preference), self._choice, self.positions)
            self._latest = state, PredictedFront(surrogates, self._seed, preference, limits, region)
        return self._latest[1]


def recommended(
    predictions: Sequence[Prediction], measured: FloatArray, preference: FloatArray, limits: FloatArray
) -> FloatArray | None:
    """Return the predicted point with the smallest preferred loss, or None if a measured one is as good within noise.

    The preferred loss is the mean of the losses weighted by the preference, as in MAP. measured: losses
    (n_points, n_objectives); points that exceed the limits are ignored.
    """
    if not predictions:
        return None
    best = min(predictions, key=lambda each: float(each.losses @ preference))
    noise = float(np.linalg.norm(best.errors * preference))
    within = measured[(measured <= limits).all(axis=1)]
    if len(within) and float((within @ preference).min()) <= best.losses @ preference + noise:
        return None
    return best.x
