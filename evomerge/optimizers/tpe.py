"""Tree-structured Parzen estimator (Bergstra et al., 2011), as in Optuna. https://arxiv.org/abs/2304.11127."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from optuna.samplers import TPESampler

from evomerge.optimizers import _parzen
from evomerge.optimizers._history import MANY, History, running
from evomerge.optimizers._optuna_view import OptunaView
from evomerge.optimizers.base import FloatArray, Observation, Optimizer, OptimizerError, Proposal

#: Candidates drawn from the density of good trials, of which the best one is proposed.
_N_CANDIDATES = 24
#: Share of the trials that count as good, and the most of them.
_GOOD, _MOST_GOOD = 0.1, 25
#: Bandwidths around bad trials are found again after this fraction of new results, where many trials are pending.
_FRESH = 32


class Tpe(Optimizer):
    """Samples where good trials are dense and bad ones are sparse. Any number of objectives.

    Pending trials count as bad ones. The joint model of a single objective takes about 2 ms per ask at 72 coordinates;
    a proposal is that of Optuna's `TPESampler`. Where 13 or more trials run at the same time, the bandwidths
    around bad trials may lack the newest 3 % of the results, and are the least ones around the points of these and of
    pending trials.

    Args:
        n_startup_trials: Successful trials, baselines included, before the first model; until then, random points.
        multivariate: Whether to model all coordinates jointly; by default for a single objective only. Several
            objectives are modeled per coordinate (0.6 s per ask at 128 coordinates and 1000 trials).
    """

    max_objectives: ClassVar[int | None] = None

    def __init__(
        self,
        dimension: int,
        n_objectives: int,
        seed: int,
        start: FloatArray | None = None,
        *,
        n_startup_trials: int = 10,
        multivariate: bool | None = None,
    ) -> None:
        super().__init__(dimension, n_objectives, seed, start)
        if n_startup_trials < 1:
            raise OptimizerError(f"n_startup_trials must be at least 1; it is {n_startup_trials}.")
        self._n_startup_trials = n_startup_trials
        self._multivariate = multivariate
        self._view = OptunaView(dimension, n_objectives)
        self._history = History(dimension)
        self._split: _Split | None = None
        self._bad: _Bad | None = None

    def _ask(self, number: int, pending: Mapping[int, FloatArray]) -> Proposal:
        if self.n_objectives == 1 and self._multivariate is not False:
            rng = np.random.RandomState(self._seed32(number))
            if len(self._history) < self._n_startup_trials:
                return Proposal(rng.uniform(size=self.dimension))
            return Proposal(self._promising(rng, list(pending.values())))
        sampler = TPESampler(
            n_startup_trials=self._n_startup_trials,
            multivariate=self._multivariate,
            constant_liar=True,
            seed=self._seed32(number),
        )
        return Proposal(self._view.suggest(sampler, pending))

    def _tell(self, observation: Observation) -> None:
        self._view.tell(observation)
        self._history.add(observation)

    def _promising(self, rng: np.random.RandomState, pending: Sequence[FloatArray]) -> FloatArray:
        """Return the candidate with the largest ratio of the densities of good and of bad trials."""
        n_told = len(self._history)
        if self._split is None or self._split.n_told != n_told:
            self._split = _Split.of(self._history, n_told)
        split = self._split
        candidates = split.below.sample(rng, _N_CANDIDATES)
        if running(self, len(pending)) < MANY:
            above = _parzen.Estimator.around(np.vstack([self._history.x[split.bad], *pending]))
        else:
            above = self._bad_at(n_told - n_told % max(1, n_told // _FRESH)).with_newer(
                self._history, split.bad, pending
            )
        return np.asarray(candidates[np.argmax(split.below.log_density(candidates) - above.log_density(candidates))])

    def _bad_at(self, n_told: int) -> "_Bad":
        """Return the bad ones of the first results, with their bandwidths."""
        if self._bad is None or self._bad.n_told != n_told:
            self._bad = _Bad.of(self._history, n_told)
        return self._bad


def _split(history: History, n_told: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return which of the first results count as good and which as bad, in their order."""
    n_good = min(math.ceil(_GOOD * n_told), _MOST_GOOD)
    is_good = np.zeros(n_told, dtype=bool)
    is_good[np.argsort(history.losses[:n_told], kind="stable")[:n_good]] = True
    return np.flatnonzero(is_good), np.flatnonzero(~is_good)


@dataclass(frozen=True, eq=False)
class _Split:
    """The estimator of the good ones of the first n_told results, and the rows of the bad ones, ascending."""

    n_told: int
    below: _parzen.Estimator
    bad: NDArray[np.int64]

    @classmethod
    def of(cls, history: History, n_told: int) -> "_Split":
        """Split the first results."""
        good, bad = _split(history, n_told)
        return cls(n_told, _parzen.Estimator.around(history.x[good]), bad)


@dataclass(frozen=True, eq=False)
class _Bad:
    """Kernels around the bad ones of the first n_told results; rows: which these are, ascending."""

    n_told: int
    rows: NDArray[np.int64]
    kernels: _parzen.Kernels

    @classmethod
    def of(cls, history: History, n_told: int) -> "_Bad":
        """Find the bandwidths around the bad ones of the first results."""
        _, bad = _split(history, n_told)
        x = history.x[bad]
        return cls(n_told, bad, _parzen.Kernels.around(x, _parzen.bandwidths(x)))

    def with_newer(self, history: History, bad: NDArray[np.int64], pending: Sequence[FloatArray]) -> _parzen.Estimator:
        """Return the estimator of all bad results and the pending points. bad: rows of the results that are bad now."""
        is_newer = np.zeros(len(history), dtype=bool)
        is_newer[bad], is_newer[self.rows] = True, False
        newer = np.flatnonzero(is_newer)
        points = np.vstack([history.x[newer], *pending])
        least = _parzen.least_bandwidth(len(bad) + len(pending))
        extra = _parzen.Kernels.around(points, np.full(points.shape, least))
        # By trial: a result that was good may have become bad, and the other way around.
        by_row = np.zeros(len(history))
        every = _parzen.weights(len(bad) + len(pending))
        by_row[bad] = every[: len(bad)]
        given = np.concatenate([by_row[self.rows], by_row[newer], every[len(bad) :]])
        return _parzen.Estimator.weighted((self.kernels, extra, _parzen.prior(points.shape[1])), given)
