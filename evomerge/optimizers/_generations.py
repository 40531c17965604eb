"""Generations without a barrier: what the two CMA-ES plug-ins share around an object of the `cmaes` library.

Any slot may ask at any time and samples the distribution of that moment. An update happens as soon as
`population_size` results have come in, whichever distribution they were drawn from, so nothing is waited for
and nothing is thrown away. With one slot this is the textbook loop.
"""

import math
from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from evomerge.optimizers.base import Observation, OptimizerError

FloatArray = NDArray[np.float64]

#: With fewer, the rank-mu update has one parent and its learning rate vanishes.
MIN_POPSIZE = 4

#: Points outside of the cube are drawn again so often, then clipped. 1, 10 and 100 end equally well with half
#: of the optimum at the border (56 and 200 coordinates, 400 trials); 100 takes most of the time at 512.
_N_RESAMPLING = 10

#: Draws from which the distribution's width is estimated.
_N_DRAWS = 16
#: Narrower than this in every coordinate, draws are one candidate: merges compute with coefficients in float32.
_NARROWEST = 1e-7
#: Points farther away, in standard deviations, were not drawn: base classes put them in the place of known ones.
_FAR = 30.0


class Distribution(Protocol):
    """What `cmaes.CMA` and `cmaes.SepCMA` have in common."""

    @property
    def mean(self) -> FloatArray: ...
    @property
    def population_size(self) -> int: ...
    def reseed_rng(self, seed: int) -> None: ...
    def ask(self) -> FloatArray: ...
    def tell(self, solutions: list[tuple[FloatArray, float]]) -> None: ...
    def should_stop(self) -> bool: ...


class Generations:
    """Feeds a distribution with results, a generation at a time."""

    def __init__(
        self,
        kind: Callable[..., Distribution],
        mean: FloatArray,
        sigma: float,
        popsize: int | None,
        *,
        follow: bool = False,
    ) -> None:
        """kind: `cmaes.CMA` or `cmaes.SepCMA`. mean: (dimension,). sigma: in widths of the cube.

        follow: whether the first generation is drawn around the best point told that was not proposed here
        (a baseline), once there is one.

        Raises OptimizerError for sigma outside of (0, 1] and for fewer than four results per update.
        """
        if not 0.0 < sigma <= 1.0:
            raise OptimizerError(f"sigma must lie in (0, 1], in widths of the cube; it is {sigma}.")
        if popsize is None:
            popsize = 4 + math.floor(3 * math.log(len(mean)))  # Hansen (2016), eq. 48
        if popsize < MIN_POPSIZE:
            raise OptimizerError(f"popsize must be at least {MIN_POPSIZE}; it is {popsize}.")
        self._kind = kind
        self._sigma = sigma
        self._distribution = self._around(mean, popsize)
        self._waiting: list[Observation] = []
        self._updates = 0
        self._follow = follow
        self._best_foreign = math.inf
        self._width: float | None = None

    @property
    def mean(self) -> FloatArray | None:
        """The distribution's mean, clipped to the cube, (dimension,); None before the first update."""
        return np.clip(self._distribution.mean, 0.0, 1.0) if self._updates else None

    @property
    def width(self) -> float:
        """Its standard deviation in the widest coordinate, as far as a few draws tell."""
        if self._width is None:
            self._width = float(np.std([self.sample(seed) for seed in range(_N_DRAWS)], axis=0).max())
        return self._width

    def steps(self) -> list[float]:
        """Steps away from a known point that an update survives: from the width on, doubled."""
        return [max(self.width, _NARROWEST) * 2.0**doubling for doubling in range(5)]

    def sample(self, seed: int) -> FloatArray:
        """One point of the current distribution, keyed by `seed`: no draw depends on an earlier one."""
        self._distribution.reseed_rng(seed)
        return np.clip(self._distribution.ask(), 0.0, 1.0)

    def tell(self, observation: Observation) -> None:
        """Keep a proposed point's result until a generation is full, then update; see `follow` for other points."""
        if not observation.proposed:
            self._begin_at(observation)
            return
        away = float(np.abs(observation.x - np.clip(self._distribution.mean, 0.0, 1.0)).max())
        if away > _FAR * max(self.width, _NARROWEST):
            return
        self._waiting.append(observation)
        size = self._distribution.population_size
        if len(self._waiting) < size:
            return
        succeeded = [told for told in self._waiting if told.losses is not None]
        if len(succeeded) < size // 2:
            # The better half attracts the mean; no failed point may be among them.
            self._waiting = succeeded
            return
        self._update()

    def _begin_at(self, observation: Observation) -> None:
        if not self._follow or self._updates or _loss(observation) >= self._best_foreign:
            return
        self._best_foreign = _loss(observation)
        self._distribution = self._around(observation.x, self._distribution.population_size)
        self._width = None

    def _update(self) -> None:
        size = self._distribution.population_size
        # The library's sort is stable, so ties go to the smaller trial number whatever came in first.
        ordered = sorted(self._waiting, key=lambda told: told.number)
        self._distribution.tell([(told.x, _loss(told)) for told in ordered])
        self._waiting = []
        self._updates += 1
        self._width = None
        if self._distribution.should_stop() or self.width < _NARROWEST:
            # Converged: go on from the same mean, as wide as in the beginning and with twice the population
            # (Auger and Hansen, 2005), instead of running into a step size of zero.
            self._distribution = self._around(self._distribution.mean, 2 * size)
            self._width = None

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
