"""MOBSTER (Klein et al., 2020): ASHA with a Gaussian process. https://arxiv.org/abs/2003.10865."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from evomerge.optimizers._rung_process import RungProcess, fit
from evomerge.optimizers._rungs import ETA, LEAST, Candidate, MultiFidelity, promoted
from evomerge.optimizers.base import FloatArray, OptimizerError, Proposal

#: Most measurements to fit to: the newest of the highest rungs.
_MOST = 300
#: Points to compare by their expected improvement: spread over the cube, and around each of the best known points.
_SPREAD, _NEAR, _BEST = 512, 100, 5
#: Standard deviations around known points, and around the most promising ones in each of the steps after that.
_WIDTHS, _FINE, _STEPS = (0.05, 0.1, 0.2), (0.02, 0.05), 2
#: Coordinates that a step away from a point changes, on average.
_MOVED = 20.0


class Mobster(MultiFidelity):
    """ASHA whose new candidates are the most promising ones under a Gaussian process over points and rungs.

    Candidates climb as in `asha`, without waiting. A new one maximizes the expected improvement of the loss on all
    examples, predicted from the results on all rungs, where pending results are expected to be as predicted. One
    objective, `objective: mean` without `keep`. The first proposal after a result takes 0.8 s at 300 results, others
    0.1 s.

    The paper models learning curves; here, the covariance between rungs is that of means over prefixes of the same
    examples. Improving the loss on all examples found better candidates than improving that on the lowest rung.

    Args:
        eta: Ratio of the sizes of two neighboring rungs.
        least: Fewest examples of the lowest rung.
        n_startup_trials: Candidates with results, baselines included, before the first fit; until then, random points.
    """

    def __init__(
        self,
        dimension: int,
        n_objectives: int,
        seed: int,
        start: FloatArray | None = None,
        *,
        eta: int = ETA,
        least: int = LEAST,
        n_startup_trials: int = 10,
    ) -> None:
        super().__init__(dimension, n_objectives, seed, start, eta=eta, least=least)
        if n_startup_trials < 2:
            raise OptimizerError(f"n_startup_trials must be at least 2; it is {n_startup_trials}.")
        self._n_startup_trials = n_startup_trials
        self._fitted: RungProcess | None = None

    def _ask(self, number: int, pending: Mapping[int, FloatArray]) -> Proposal:
        _, climbing = self._pending(pending)
        climber = promoted(self._candidates.values(), self._rungs.top, self._eta, climbing)
        if climber is not None:
            return self._climb(climber)
        if sum(bool(_finite(candidate)) for candidate in self._candidates.values()) < self._n_startup_trials:
            return self._enter(0, self._uniform(number), pending)
        return self._enter(0, self._promising(number, pending), pending)

    def _took(self, candidate: Candidate, rung: int) -> None:  # noqa: ARG002 - every result counts
        self._fitted = None

    def _promising(self, number: int, pending: Mapping[int, FloatArray]) -> Iterator[FloatArray]:
        """Yield points, those with the largest expected improvement first, keyed by the trial's number."""
        rng, size = self._rng(number), self._rungs.sizes[-1]
        self._fitted = self._fitted or self._fit()
        points = [x for _, x in sorted(pending.items())]
        process = self._fitted.believing(points, [self._next_size(x) for x in points])
        expected, _ = process.predict(self._fitted.x, size)
        known = dict.fromkeys(self._fitted.x[i].tobytes() for i in np.argsort(expected, kind="stable"))
        best = [np.frombuffer(x) for x in list(known)[:_BEST]]
        pool = np.vstack([rng.random((_SPREAD, self.dimension)), *(_around(x, _WIDTHS, rng) for x in best)])
        for _ in range(_STEPS):
            pool = _ranked(process, pool, size)
            pool = np.vstack([pool[:_NEAR], *(_around(x, _FINE, rng) for x in pool[:_BEST])])
        yield from _ranked(process, pool, size)

    def _next_size(self, x: FloatArray) -> int:
        """Return the number of examples on the rung where the result of a pending point is expected."""
        candidate = self._candidates.get(self.key(x))
        sizes = self._rungs.sizes
        return sizes[0] if candidate is None else sizes[min(candidate.rung + 1, self._rungs.top)]

    def _fit(self) -> RungProcess:
        """Fit to the results so far."""
        results = [(r, c.number, c, loss) for c in self._candidates.values() for r, loss in _finite(c)]
        newest = sorted(results, key=lambda result: result[:2])[-_MOST:]
        sizes = self._rungs.sizes
        return fit(
            np.array([candidate.x for _, _, candidate, _ in newest]),
            np.array([sizes[rung] for rung, *_ in newest], dtype=np.float64),
            np.array([loss for *_, loss in newest]),
            least=sizes[0],
            total=sizes[-1],
        )


def _finite(candidate: Candidate) -> list[tuple[int, float]]:
    """Return the rungs on which a candidate did not fail, with its losses there."""
    return [(rung, loss) for rung, loss in sorted(candidate.losses.items()) if np.isfinite(loss)]


def _ranked(process: RungProcess, points: FloatArray, size: int) -> FloatArray:
    """Return points (n, dimension), those with the largest expected improvement on a rung first."""
    return points[np.argsort(-process.improvement(points, size), kind="stable")]


def _around(x: FloatArray, widths: Sequence[float], rng: np.random.Generator) -> FloatArray:
    """Return points around one, (n, dimension), some coordinates of which differ; reflected at the cube's faces."""
    moved = rng.random((_NEAR, len(x))) < _MOVED / len(x)
    away = rng.choice(np.array(widths), (_NEAR, 1)) * rng.standard_normal((_NEAR, len(x)))
    return np.clip(1.0 - np.abs(1.0 - np.abs(x + moved * away)), 0.0, 1.0)
