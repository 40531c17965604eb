"""Acquisition for verifying predicted points: expected improvement of the measured front's hypervolume.

Expectation and volume are means over quasi-random draws (Daulton et al., 2020, https://arxiv.org/abs/2006.05078), so
the cost does not grow with the number of objectives.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from evomerge.optimizers._quasi_random import sobol_points
from evomerge.optimizers.base import FloatArray
from evomerge.statistics import pareto

#: Points for estimating the volume, and normal draws per candidate; powers of two.
_N_VOLUME = 1024
_N_DRAWS = 16
#: How much more an objective's own corner weighs than the opposite one, as an exponent per unit of preference.
_FOCUS = 2.0


@dataclass(frozen=True, eq=False)
class Volume:
    """Points (n, n_objectives) between the best and the worst losses of interest, weighted by the preference.

    The weighted hypervolume indicator of Zitzler et al., 2007, https://doi.org/10.1007/978-3-540-70928-2_64; equal
    preferences give equal weights. open: points not dominated by any measured one. weights: (n,), summing to 1.
    covered: fraction of the weight that measured points dominate.
    """

    open: FloatArray
    weights: FloatArray
    covered: float

    @classmethod
    def beyond(
        cls, measured: FloatArray, hoped: FloatArray, worst: FloatArray, preference: FloatArray, seed: int
    ) -> "Volume":
        """Sample between `worst` (n_objectives,) and the best of `measured` and `hoped` losses (n, n_objectives)."""
        best = np.minimum(np.vstack([measured, hoped]).min(axis=0), worst)
        sobol = sobol_points(len(worst), seed, _N_VOLUME)
        points = best + sobol * np.maximum(worst - best, 1e-12)
        tilt = preference - preference.mean()
        weights = np.exp(_FOCUS * len(worst) * ((1.0 - sobol) @ tilt))
        weights = weights / weights.sum()
        front = measured[pareto.non_dominated(measured)]
        dominated = np.zeros(len(points), dtype=np.bool_)
        for losses in front:
            dominated |= (losses <= points).all(axis=1)
        return cls(points[~dominated], weights[~dominated], float(weights[dominated].sum()))

    def gains(self, losses: FloatArray) -> FloatArray:
        """Return the fraction of weighted hypervolume that each of `losses` (..., n_objectives) adds alone: (...)."""
        flat = losses.reshape(-1, losses.shape[-1])
        gains = np.empty(len(flat))
        for at in range(0, len(flat), 512):  # in chunks, to limit memory
            ahead = (flat[at : at + 512, None, :] <= self.open).all(axis=2)
            gains[at : at + 512] = ahead @ self.weights
        return gains.reshape(losses.shape[:-1])

    def joint_gain(self, losses: FloatArray) -> float:
        """Return the fraction of weighted hypervolume that `losses` (n, n_objectives) add together."""
        ahead = np.zeros(len(self.open), dtype=np.bool_)
        for each in losses:
            ahead |= (each <= self.open).all(axis=1)
        return float(self.weights[ahead].sum())

    def expected_gains(self, losses: FloatArray, errors: FloatArray) -> FloatArray:
        """Return the expectation of `gains` over normal losses with standard `errors`, both (n, n_objectives): (n,)."""
        draws = ndtri(sobol_points(losses.shape[1], 0, _N_DRAWS).clip(1e-3, 1 - 1e-3))
        return np.asarray(self.gains(losses[:, None, :] + errors[:, None, :] * draws).mean(axis=1))
