"""Cross-entropy method (Rubinstein, 1999; de Boer et al., 2005). https://doi.org/10.1007/s10479-005-5724-z."""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from evomerge.optimizers._generations import Generations
from evomerge.optimizers._threads import one_thread
from evomerge.optimizers.base import FloatArray, Observation, Optimizer, OptimizerError, Proposal

#: Share of the new mean and deviations in an update; de Boer et al. (2005), section 4, recommend 0.4 to 0.9.
_SMOOTHING = 0.7


class CrossEntropy(Optimizer):
    """Samples independent normal distributions, and refits them to the best of each generation. One objective.

    Simpler than CMA-ES: no step size control and no correlations, so it narrows faster, and stops improving where the
    floor of its deviations is. Points outside the cube are redrawn, and clipped if that fails. The first generation is
    centered on the best baseline so far.

    Args:
        sigma: Initial standard deviation, as a fraction of a coefficient's range; the default is that of `cma_es`.
        popsize: Results per update; 4 + floor(3 ln dimension) by default.
        elite: Share of a generation that the distributions are refitted to, at most 0.5 and at least two candidates.
        floor: Least standard deviation of a coordinate, as a fraction of its range.
    """

    def __init__(
        self,
        dimension: int,
        n_objectives: int,
        seed: int,
        start: FloatArray | None = None,
        *,
        sigma: float | None = None,
        popsize: int | None = None,
        elite: float = 0.2,
        floor: float = 0.02,
    ) -> None:
        super().__init__(dimension, n_objectives, seed, start)
        if not 0.0 < elite <= 0.5:
            raise OptimizerError(f"elite must lie in (0, 0.5], as a share of a generation; it is {elite}.")
        if not 0.0 < floor <= 1.0:
            raise OptimizerError(f"floor must lie in (0, 1], in cube widths; it is {floor}.")
        kind = partial(_Normal, elite=elite, floor=floor)
        self._generations = Generations(kind, self.start, sigma, popsize, follow=True)

    @one_thread
    def recommend(self) -> FloatArray | None:
        """Return the distributions' mean, (dimension,); None before the first update."""
        return self._generations.mean

    def _ask(self, number: int, pending: Mapping[int, FloatArray]) -> Proposal:  # noqa: ARG002 - contract
        return Proposal(self._generations.sample(self._seed32(number)))

    def _steps(self) -> Sequence[float]:
        return self._generations.steps()

    def _tell(self, observation: Observation) -> None:
        self._generations.tell(observation)


class _Normal:
    """Independent normal distributions over a box, as `Generations` samples and updates them."""

    def __init__(
        self,
        mean: FloatArray,
        sigma: float,
        bounds: FloatArray,
        n_max_resampling: int,
        population_size: int,
        *,
        elite: float,
        floor: float,
    ) -> None:
        self.mean = mean
        self.population_size = population_size
        self._deviation = np.full(len(mean), sigma)
        self._low, self._high = bounds.T
        self._n_max_resampling = n_max_resampling
        self._n_elite = max(2, round(elite * population_size))
        self._floor = floor
        self._rng = np.random.default_rng(0)

    def reseed_rng(self, seed: int) -> None:
        """Key the next draw."""
        self._rng = np.random.default_rng(seed)

    def ask(self) -> FloatArray:
        """Draw a point, (dimension,); coordinates outside of the box are redrawn, and clipped after some attempts."""
        x = self.mean + self._deviation * self._rng.standard_normal(len(self.mean))
        for _ in range(self._n_max_resampling):
            outside = (x < self._low) | (x > self._high)
            if not outside.any():
                return x
            again = self.mean + self._deviation * self._rng.standard_normal(len(self.mean))
            x = np.where(outside, again, x)
        return np.clip(x, self._low, self._high)

    def tell(self, solutions: list[tuple[FloatArray, float]]) -> None:
        """Refit to the best of a generation; of equal losses, the first."""
        ranked = sorted(solutions, key=lambda solution: solution[1])
        elite = np.array([x for x, _ in ranked[: self._n_elite]])
        self.mean = _SMOOTHING * elite.mean(axis=0) + (1.0 - _SMOOTHING) * self.mean
        deviation = _SMOOTHING * elite.std(axis=0, ddof=1) + (1.0 - _SMOOTHING) * self._deviation
        self._deviation = np.maximum(deviation, self._floor)

    def should_stop(self) -> bool:
        """Never restart: the floor keeps the deviations from vanishing."""
        return False
