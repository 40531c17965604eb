"""What measurements imply: surrogates, the front that they predict, and the point to take from it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evomerge.optimizers._front_solver import solve
from evomerge.optimizers._surrogates import FAMILIES, FEWEST, Choice, Surrogates, fit
from evomerge.optimizers.base import FloatArray, Observation, OptimizerError, Prediction


@dataclass(frozen=True, eq=False)
class PredictedFront:
    """The models, and the points x (n, dimension) that none of the others is predicted to beat."""

    surrogates: Surrogates
    x: FloatArray

    @classmethod
    def of(
        cls, succeeded: Sequence[Observation], choice: Choice, seed: int, preference: FloatArray, limits: FloatArray
    ) -> "PredictedFront":
        """From at least `_surrogates.FEWEST` observations with losses; preference and limits: (n_objectives,)."""
        surrogates = fit(succeeded, len(preference), choice)
        known = np.array([seen.x for seen in succeeded])
        return cls(surrogates, solve(surrogates.losses_and_gradients, known, seed, preference, limits))

    def predictions(self, limits: FloatArray) -> tuple[Prediction, ...]:
        """The front's points, without those that exceed `limits` by more than their standard errors."""
        losses, errors = self.surrogates.predict(self.x)
        return tuple(
            Prediction(x, expected, doubt)
            for x, expected, doubt in zip(self.x, losses, errors, strict=True)
            if (expected - doubt <= limits).all()
        )


class Forecaster:
    """Fits once per state of a study, whoever asks how often.

    initial: measurements before which an optimizer makes no predictions. Raises OptimizerError for options that make
    no sense.
    """

    def __init__(self, seed: int, initial: int, choice: Choice) -> None:
        if initial < FEWEST:
            raise OptimizerError(f"initial must be at least {FEWEST}; it is {initial}.")
        if choice != "auto" and choice not in FAMILIES:
            raise OptimizerError(f"surrogate must be auto, {', '.join(FAMILIES)}; it is {choice!r}.")
        self.initial = initial
        self._seed, self._choice = seed, choice
        self._latest: tuple[tuple[int, bytes, bytes], PredictedFront] | None = None

    def front(self, succeeded: Sequence[Observation], preference: FloatArray, limits: FloatArray) -> PredictedFront:
        """What the observations imply; the next call has the same ones, and maybe more."""
        state = (len(succeeded), preference.tobytes(), limits.tobytes())
        if self._latest is None or self._latest[0] != state:
            self._latest = state, PredictedFront.of(succeeded, self._choice, self._seed, preference, limits)
        return self._latest[1]


def recommended(
    predictions: Sequence[Prediction], measured: FloatArray, preference: FloatArray, limits: FloatArray
) -> FloatArray | None:
    """The predicted point with the least preferred loss, or None where a measured one is as good within noise.

    The preferred loss is the mean of the losses weighted by the preference, the rule of MAP. measured: losses
    (n_points, n_objectives); those beyond the limits do not count.
    """
    if not predictions:
        return None
    best = min(predictions, key=lambda each: float(each.losses @ preference))
    noise = float(np.linalg.norm(best.errors * preference))
    within = measured[(measured <= limits).all(axis=1)]
    if len(within) and float((within @ preference).min()) <= best.losses @ preference + noise:
        return None
    return best.x
