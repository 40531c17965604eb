"""Generations without a barrier, for plug-ins that sample and refit a distribution: the two CMA-ES ones and `cem`.

A worker may ask at any time and samples the current distribution. The distribution is updated as soon as
`population_size` results have arrived, whichever version they were drawn from, so no worker waits and no result is
discarded. With one worker this is the textbook loop.
"""

import math
from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from evomerge.optimizers.base import Observation, OptimizerError

FloatArray = NDArray[np.float64]

#: With fewer, the rank-mu update has a single parent and its learning rate vanishes.
MIN_POPSIZE = 4

#: Initial standard deviation: a compromise between the best value for a good start (0.1) and for an optimum at the
#: border (0.25), over 14 to 200 coordinates and 100 to 400 trials of rotated quadratics. Noisier losses need a larger
#: one.
_SIGMA = 0.13
#: It is that for means this far from the border, and smaller in proportion for nearer ones: with many experts a uniform
#: weight is small, and draws that may only go up would be far from it on average.
_ROOM = 0.25
_LEAST_SIGMA = 0.03

#: Redraws of a point outside the cube before it is clipped. 1, 10 and 100 end equally well with half of the
#: optimum's coordinates at the border (56 and 200 coordinates, 400 trials); 100 dominates the run time at 512.
_N_RESAMPLING = 10

#: Draws used to estimate the width of the distribution.
_N_DRAWS = 16
#: Below this width in every coordinate all draws are one candidate: merges compute with float32 coefficients.
_NARROWEST = 1e-7
#: Above this standard deviation of a generation, draws need not tell that the distribution is wide: a dozen draws for
#: every generation take longer than the update.
_CLEARLY_WIDE = 1e-3
#: Points farther away than this many standard deviations were not drawn but are replacements for known points.
_FAR = 30.0


def default_sigma(mean: FloatArray) -> float:
    """Return an initial standard deviation: 0.13, or about half the mean distance of coordinates to the border if less.

    Coordinates on the border do not count; at least 0.03. mean: of the distribution, (dimension,).
    """
    room = np.minimum(mean, 1.0 - mean)
    inside = room[room > 0]
    near = float(inside.mean()) / _ROOM if len(inside) else 1.0
    return max(_LEAST_SIGMA, _SIGMA * min(1.0, near))


class Distribution(Protocol):
    """The common interface of `cmaes.CMA`, `cmaes.SepCMA` and the distributions of `cem`."""

    @property
    def mean(self) -> FloatArray: ...
    @property
    def population_size(self) -> int: ...
    def reseed_rng(self, seed: int) -> None: ...
    def ask(self) -> FloatArray: ...
    def tell(self, solutions: list[tuple[FloatArray, float]]) -> None: ...
    def should_stop(self) -> bool: ...


class Generations:
    """Updates a distribution from results, one generation at a time."""

    def __init__(
        self,
        kind: Callable[..., Distribution],
        mean: FloatArray,
        sigma: float | None,
        popsize: int | None,
        *,
        follow: bool = False,
    ) -> None:
        """Start from a normal distribution.

        Args:
            kind: `cmaes.CMA`, `cmaes.SepCMA`, or another `Distribution` with their arguments.
            mean: Initial mean, (dimension,).
            sigma: Initial standard deviation, in cube widths, in (0, 1]; None for `default_sigma` of the mean.
            popsize: Results per update, at least 4; None for the default.
            follow: Whether to center the first generation on the best point told that was not proposed here (a
                baseline), once there is one.

        Raises:
            OptimizerError: `sigma` or `popsize` is out of range.
        """
        if sigma is None:
            sigma = default_sigma(mean)
        if not 0.0 < sigma <= 1.0:
            raise OptimizerError(f"sigma must lie in (0, 1], in cube widths; it is {sigma}.")
        if popsize is None:
            popsize = 4 + math.floor(3 * math.log(len(mean)))  # Hansen (2016), eq. 48
        if popsize < MIN_POPSIZE:
            raise OptimizerError(f"popsize must be at least {MIN_POPSIZE}; it is {popsize}.")
        self._kind = kind
        self._sigma = sigma
        self._distribution = self._around(mean, popsize)
        self._center: FloatArray | None = None
        self._waiting: list[Observation] = []
        self._updates = 0
        self._follow = follow
        self._best_foreign = math.inf
        self._width: float | None = None
        self._spread = sigma

    @property
    def mean(self) -> FloatArray | None:
        """Return the distribution's mean, clipped to the cube, (dimension,); None before the first update."""
        return np.clip(self._distribution.mean, 0.0, 1.0) if self._updates else None

    @property
    def width(self) -> float:
        """Estimate the standard deviation of the widest coordinate from a few draws; see `_CLEARLY_WIDE`."""
        if self._width is None:
            self._width = float(np.std([self.sample(seed) for seed in range(_N_DRAWS)], axis=0).max())
        return self._width

    def steps(self) -> list[float]:
        """Return step sizes away from a known point that an update tolerates: the width, doubled repeatedly."""
        return [max(self.width, _NARROWEST) * 2.0**doubling for doubling in range(5)]

    def sample(self, seed: int) -> FloatArray:
        """Return one point of the current distribution, keyed by `seed`: no draw depends on an earlier one."""
        self._distribution.reseed_rng(seed)
        return np.clip(self._distribution.ask(), 0.0, 1.0)

    def tell(self, observation: Observation) -> None:
        """Collect a proposed point's result and update once a generation is full; see `follow` for other points."""
        if not observation.proposed:
            self._begin_at(observation)
            return
        if self._center is None:
            self._center = np.clip(self._distribution.mean, 0.0, 1.0)
        away = float(np.maximum.reduce(np.abs(observation.x - self._center)))
        if away > _FAR * max(self._spread if self._spread > _CLEARLY_WIDE else self.width, _NARROWEST):
            return
        self._waiting.append(observation)
        size = self._distribution.population_size
        if len(self._waiting) < size:
            return
        succeeded = [told for told in self._waiting if told.losses is not None]
        if len(succeeded) < size // 2:
            # The better half attracts the mean; it must not contain failed points.
            self._waiting = succeeded
            return
        self._update()

    def _begin_at(self, observation: Observation) -> None:
        if not self._follow or self._updates or _loss(observation) >= self._best_foreign:
            return
        self._best_foreign = _loss(observation)
        self._distribution = self._around(observation.x, self._distribution.population_size)
        self._width = self._center = None

    def _update(self) -> None:
        size = self._distribution.population_size
        # The library's sort is stable, so ties go to the smaller trial number, whichever arrived first.
        ordered = sorted(self._waiting, key=lambda told: told.number)
        self._distribution.tell([(told.x, _loss(told)) for told in ordered])
        self._waiting = []
        self._updates += 1
        self._width = self._center = None
        self._spread = float(np.std([told.x for told in ordered], axis=0).max())
        narrow = self._spread <= _CLEARLY_WIDE and self.width < _NARROWEST
        if narrow or self._distribution.should_stop():
            # Converged: restart from the same mean with the initial width and twice the population (Auger and Hansen,
            # 2005), instead of letting the step size vanish.
            self._distribution = self._around(self._distribution.mean, 2 * size)
            self._width, self._center, self._spread = None, None, self._sigma

    def _around(self, mean: FloatArray, popsize: int) -> Distribution:
        return self._kind(
            mean=np.clip(mean, 0.0, 1.0),
            sigma=self._sigma,
            bounds=np.tile([0.0, 1.0], (len(mean), 1)),
            n_max_resampling=_N_RESAMPLING,
            population_size=popsize,
        )


def _loss(told: Observation) -> float:
    return math.inf if told.losses is None else float(told.losses[0])
