"""Separable CMA-ES (Ros and Hansen, 2008), from the `cmaes` library. https://doi.org/10.1007/978-3-540-87700-4_30."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import cmaes

from evomerge.optimizers._generations import Generations
from evomerge.optimizers._threads import one_thread
from evomerge.optimizers.base import FloatArray, Observation, Optimizer, Proposal


class SepCmaEs(Optimizer):
    """CMA-ES with one variance per coordinate instead of a covariance matrix. One objective.

    For hundreds of coordinates: 0.1 ms per candidate at 512, and fewer parameters to learn. Points outside the cube are
    redrawn, and clipped if that fails; the clipped point is evaluated and learned from. In one dimension, where there
    is nothing to separate, it is CMA-ES. The first generation is centered on the best baseline so far.

    Args:
        sigma: Initial standard deviation, as a fraction of a coefficient's range; by default as in `cma_es`.
        popsize: Results per update; 4 + floor(3 ln dimension) by default.
    """

    max_objectives: ClassVar[int | None] = 1

    def __init__(
        self,
        dimension: int,
        n_objectives: int,
        seed: int,
        start: FloatArray | None = None,
        *,
        sigma: float | None = None,
        popsize: int | None = None,
    ) -> None:
        super().__init__(dimension, n_objectives, seed, start)
        kind = cmaes.SepCMA if dimension > 1 else cmaes.CMA
        self._generations = Generations(kind, self.start, sigma, popsize, follow=True)

    @one_thread
    def recommend(self) -> FloatArray | None:
        """Return the distribution's mean, clipped to the cube, (dimension,); None before the first update."""
        return self._generations.mean

    def _ask(self, number: int, pending: Mapping[int, FloatArray]) -> Proposal:  # noqa: ARG002 - contract
        return Proposal(self._generations.sample(self._seed32(number)))

    def _steps(self) -> Sequence[float]:
        return self._generations.steps()

    def _tell(self, observation: Observation) -> None:
        self._generations.tell(observation)
