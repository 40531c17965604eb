"""What measurements imply: surrogates, the front that they predict, and the point to take from it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evomerge.optimizers._front_solver import solve
from evomerge.optimizers._surrogates import Choice, Surrogates, fit
from evomerge.optimizers.base import FloatArray, Observation, Prediction


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
