"""Bayesian optimisation with a Gaussian process and log expected improvement, from Optuna. https://arxiv.org/abs/2310.20708."""

from collections.abc import Mapping
from typing import ClassVar

from optuna.samplers import GPSampler

from evomerge.optimizers._optuna_view import OptunaView
from evomerge.optimizers._quasi_random import sobol_point
from evomerge.optimizers.base import FloatArray, Observation, Optimizer, OptimizerError, Proposal


class GaussianProcess(Optimizer):
    """Fits a Matern-5/2 process with a length scale per coordinate, noise included. Up to four objectives.

    One process per objective. With one of them it maximises the log of the expected improvement, with several the log
    of the expected hypervolume improvement (logEHVI; same paper, section 4), whose reference point lies a little
    beyond the worst losses told. Pending trials take part as samples of what they may bring (qLogEI, qLogEHVI);
    failed ones are left out. Splitting the space that the front leaves into boxes takes memory that grows with every
    objective: with five and 60 trials it was more than 20 GB.

    The most frugal with evaluations and the slowest to ask: 0.3 to 1 s at 32 coordinates and 200 trials,
    1.6 s at 128, 8 s at 64 coordinates and 1000 trials, 0.1 to 0.7 s more per pending trial. With 2, 3 and 4
    objectives 0.7, 1.2 and 1.4 s at 32 coordinates and 200 trials, 0.5, 1.0 and 1.7 s at 128 coordinates and 100
    trials, and 1.5 to 2.4 times that with four pending. For searches whose evaluations take longer than that. Sobol
    points until `n_startup_trials` trials have succeeded, baselines included.
    """

    max_objectives: ClassVar[int | None] = 4
    #: Another seed finds the same maximum of the same improvement.
    redraws: ClassVar[int] = 0

    def __init__(
        self,
        dimension: int,
        n_objectives: int,
        seed: int,
        start: FloatArray | None = None,
        *,
        n_startup_trials: int = 10,
    ) -> None:
        super().__init__(dimension, n_objectives, seed, start)
        if n_startup_trials < 1:
            raise OptimizerError(f"n_startup_trials must be at least 1; it is {n_startup_trials}.")
        self._n_startup_trials = n_startup_trials
        self._view = OptunaView(dimension, n_objectives)

    def _ask(self, number: int, pending: Mapping[int, FloatArray]) -> Proposal:
        if self._view.n_succeeded < self._n_startup_trials:
            return Proposal(sobol_point(self.dimension, self.seed, number))
        sampler = GPSampler(seed=self._seed32(number), n_startup_trials=self._n_startup_trials)
        return Proposal(self._view.suggest(sampler, pending))

    def _tell(self, observation: Observation) -> None:
        self._view.tell(observation)
