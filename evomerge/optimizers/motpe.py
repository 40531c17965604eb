"""Multi-objective TPE (Ozaki et al., 2020, 2022), from Optuna. https://doi.org/10.1613/jair.1.13188."""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from optuna.samplers import TPESampler
from scipy.stats import qmc

from evomerge.optimizers._optuna_view import OptunaView
from evomerge.optimizers.base import FloatArray, Observation, Optimizer, OptimizerError, Proposal


class Motpe(Optimizer):
    """TPE with its authors' settings for several objectives; `tpe` has Optuna's, for any number.

    A tenth of the trials count as good: whole ranks of non-domination, then those of the next rank that jointly cover
    the most hypervolume. Each coordinate is modeled separately: of 24 candidates, the one with the largest ratio of
    good to bad density is used; all kernels have the same weight. Two or more objectives; pending trials count as bad.

    Args:
        n_startup_trials: Size of the initial Latin hypercube, baselines included; by default 11 * dimension - 1, which
            is 615 at 56 coordinates, so set a smaller one for a small budget.
    """

    min_objectives: ClassVar[int] = 2
    max_objectives: ClassVar[int | None] = None

    def __init__(
        self,
        dimension: int,
        n_objectives: int,
        seed: int,
        start: FloatArray | None = None,
        *,
        n_startup_trials: int | None = None,
    ) -> None:
        super().__init__(dimension, n_objectives, seed, start)
        if n_startup_trials is None:
            n_startup_trials = 11 * dimension - 1  # Ozaki et al. (2020), section 5
        if n_startup_trials < 1:
            raise OptimizerError(f"n_startup_trials must be at least 1; it is {n_startup_trials}.")
        self._n_startup_trials = n_startup_trials
        self._view = OptunaView(dimension, n_objectives)

    def _ask(self, number: int, pending: Mapping[int, FloatArray]) -> Proposal:
        if self._view.n_succeeded < self._n_startup_trials:
            return Proposal(self._spread(number))
        sampler = TPESampler(
            n_startup_trials=self._n_startup_trials,
            n_ei_candidates=24,
            multivariate=False,
            constant_liar=True,
            seed=self._seed32(number),
        )
        return Proposal(self._view.suggest(sampler, pending))

    def _tell(self, observation: Observation) -> None:
        self._view.tell(observation)

    def _spread(self, number: int) -> FloatArray:
        """Return point `number` of a Latin hypercube; past its end (after failures), a point of the next one."""
        square, index = divmod(number, self._n_startup_trials)
        engine = qmc.LatinHypercube(self.dimension, rng=self._rng(square))
        return np.asarray(engine.random(self._n_startup_trials)[index], dtype=np.float64)
