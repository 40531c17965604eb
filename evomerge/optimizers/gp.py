"""Bayesian optimization with a Gaussian process and log expected improvement, from Optuna. https://arxiv.org/abs/2310.20708."""

from collections.abc import Mapping
from typing import ClassVar

from optuna.samplers import GPSampler

from evomerge.optimizers._history import MANY, History, running
from evomerge.optimizers._many_draws import ManyDraws
from evomerge.optimizers._optuna_view import OptunaView
from evomerge.optimizers._quasi_random import sobol_point
from evomerge.optimizers.base import FloatArray, Observation, Optimizer, OptimizerError, Proposal


class GaussianProcess(Optimizer):
    """Fits a Matern 5/2 process with a length scale per coordinate and noise. Up to four objectives.

    Each objective has its own process. A single objective maximizes the log expected improvement; several maximize
    the log expected hypervolume improvement (logEHVI; same paper, section 4), with a reference point slightly beyond
    the worst losses so far. Pending trials enter as samples of their possible results (qLogEI, qLogEHVI); failed ones
    are ignored. Partitioning the non-dominated space into boxes takes memory that grows with every objective: more
    than 20 GB with five objectives and 60 trials.

    Where 13 or more trials of a single objective run at the same time, a proposal is the minimum of a draw from another
    process instead (Thompson sampling, https://arxiv.org/abs/1705.09236), at a third of the draw's distance from the
    mean. One process serves several proposals: it is given new results in steps of half of these trials, and at most
    256 of them, the best and the newest. A proposal takes 2 ms at 72 coordinates, with any number of results.

    Otherwise the most sample-efficient and the slowest to ask: 0.3 to 1 s at 32 coordinates and 200 trials, 1.6 s
    at 128, 8 s at 64 coordinates and 1000 trials, plus 0.1 to 0.7 s per pending trial. With 2, 3 and 4 objectives
    it takes 0.7, 1.2 and 1.4 s at 32 coordinates and 200 trials, 0.5, 1.0 and 1.7 s at 128 coordinates and 100
    trials, and 1.5 to 2.4 times that with four pending trials. Use it when an evaluation takes longer than that.

    Args:
        n_startup_trials: Successful trials, baselines included, before the first fit; until then, Sobol points.
    """

    max_objectives: ClassVar[int | None] = 4
    #: Another seed finds the same maximum of the same acquisition function.
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
        self._history = History(dimension)
        self._draws = ManyDraws(self._history, dimension, self._rng, n_startup_trials)

    def _ask(self, number: int, pending: Mapping[int, FloatArray]) -> Proposal:
        if self._view.n_succeeded < self._n_startup_trials:
            return Proposal(sobol_point(self.dimension, self.seed, number))
        if self.n_objectives == 1 and (n_running := running(self, len(pending))) >= MANY:
            return Proposal(self._draws.ask(number, n_running))
        sampler = GPSampler(seed=self._seed32(number), n_startup_trials=self._n_startup_trials)
        return Proposal(self._view.suggest(sampler, pending))

    def _tell(self, observation: Observation) -> None:
        self._view.tell(observation)
        self._history.add(observation)
