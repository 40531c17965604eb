"""CARBS: local search along the front of cost and score (Fetterman et al., 2023). https://arxiv.org/abs/2306.08055."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from evomerge.optimizers._generations import default_sigma
from evomerge.optimizers._links import Data, Plain
from evomerge.optimizers._process import Process, fit_process
from evomerge.optimizers._surrogates import Surrogates, fit
from evomerge.optimizers.base import FloatArray, Observation, Optimizer, OptimizerError, Proposal

#: Points to compare.
_POOL = 2000
#: Shares of the radius with which they are drawn: in many dimensions, a full step in every coordinate is seldom good.
_SHARES = (1.0, 0.5, 0.25, 0.125)
#: The cheapest points, by this quantile of the costs, count as equally cheap: a cheap failure is no progress.
_CHEAP = 0.2
#: Least standard deviation of the logarithm of the seconds that is modeled: 1 %.
_LEAST_SPREAD = 0.01


class Carbs(Optimizer):
    """Proposes points near the best known ones for their cost, weighing score against seconds. One objective.

    Gaussian processes predict the loss and the logarithm of the seconds that a candidate takes. New points are drawn
    around those that no other known point beats in both, and the one with the largest expected improvement over the
    known losses at its cost is proposed. Failed trials are ignored; pending ones are expected to be as predicted.
    Merges of the same models take about the same time, except for those that generate without end: these are
    avoided. Without such differences this is Bayesian optimization in the neighborhood of the best point.

    Seconds are those that the ledger holds, so a resumed search proposes what the interrupted one would have proposed;
    another run with the same seed measures other seconds, and proposes other points. A proposal takes about as long as
    with `gp`.

    Differs from the authors' code: known points are compared by their predictions instead of single measurements of
    time; none is measured again, since that would give the same score; and smaller steps than the radius are tried
    too, which helps with many coefficients.

    Args:
        radius: Largest standard deviation of new points around known ones, as a fraction of a coefficient's range; the
            default is the initial one of `cma_es`.
        most_seconds: Seconds that a candidate may take; slower ones are avoided. No limit by default.
        n_startup_trials: Successful trials, baselines included, before the first fit; until then, points around the
            start.
    """

    def __init__(
        self,
        dimension: int,
        n_objectives: int,
        seed: int,
        start: FloatArray | None = None,
        *,
        radius: float | None = None,
        most_seconds: float | None = None,
        n_startup_trials: int = 10,
    ) -> None:
        super().__init__(dimension, n_objectives, seed, start)
        if radius is not None and not 0.0 < radius <= 1.0:
            raise OptimizerError(f"radius must lie in (0, 1], in cube widths; it is {radius}.")
        if most_seconds is not None and not most_seconds > 0.0:
            raise OptimizerError(f"most_seconds must be positive; it is {most_seconds}.")
        if n_startup_trials < 2:
            raise OptimizerError(f"n_startup_trials must be at least 2; it is {n_startup_trials}.")
        self._radius = default_sigma(self.start) if radius is None else radius
        self._log_most = None if most_seconds is None else float(np.log(most_seconds))
        self._n_startup_trials = n_startup_trials
        self._results: list[Observation] = []
        self._fitted: Models | None = None

    def _ask(self, number: int, pending: Mapping[int, FloatArray]) -> Proposal:
        rng = self._rng(number)
        if len(self._results) < self._n_startup_trials:
            return Proposal(self._around(self.start[None], rng, 1)[0])
        self._fitted = self._fitted or Models.fitted(self._results)
        models = self._fitted.believing([x for _, x in sorted(pending.items())])
        front = models.front()
        pool = self._around(front.x, rng, -(-_POOL // len(front.x)))
        return Proposal(pool[int(np.argmax(models.acquisition(pool, front, self._log_most)))])

    def _tell(self, observation: Observation) -> None:
        if observation.losses is not None:
            self._results.append(observation)
            self._fitted = None

    def _around(self, centers: FloatArray, rng: np.random.Generator, n_each: int) -> FloatArray:
        """Draw points around each center, (n, dimension), reflected at the faces of the cube."""
        repeated = np.repeat(centers, n_each, axis=0)
        widths = self._radius * rng.choice(np.array(_SHARES), (len(repeated), 1))
        moved = np.abs(repeated + widths * rng.standard_normal(repeated.shape))
        return np.clip(1.0 - np.abs(1.0 - moved), 0.0, 1.0)


@dataclass(frozen=True, eq=False)
class Front:
    """Known points (n, dimension) that none dominates, with their losses and log seconds (n,), the cheapest first."""

    x: FloatArray
    losses: FloatArray
    costs: FloatArray


@dataclass(frozen=True, eq=False)
class Models:
    """What is known of the loss and of the log seconds; the latter may be unknown. x: known points (n, dimension)."""

    x: FloatArray
    loss: Surrogates
    cost: Process | None

    @classmethod
    def fitted(cls, results: list[Observation]) -> "Models":
        """Fit to successful trials."""
        timed = [(seen.x, np.log(seen.seconds)) for seen in results if seen.seconds]
        costs = np.array([cost for _, cost in timed])
        cost = None
        if len(timed) > 1 and costs.std() > _LEAST_SPREAD:
            noise = np.full(len(costs), costs.var())
            x = np.array([x for x, _ in timed])
            cost = fit_process(Data(Plain(), x, costs, costs, noise, np.ones(len(costs))))
        return cls(np.array([seen.x for seen in results]), fit(results, 1, "gp"), cost)

    def believing(self, points: list[FloatArray]) -> "Models":
        """Condition on the expected results at points."""
        if not points:
            return self
        added = np.array(points)
        cost = None if self.cost is None else self.cost.believing(added)
        return Models(np.vstack([self.x, added]), self.loss.believing(points), cost)

    def losses(self, x: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the expected losses at points (n, dimension) and their standard errors, (n,) each."""
        losses, errors = self.loss.predict(x)
        return losses[:, 0], errors[:, 0]

    def costs(self, x: FloatArray) -> FloatArray:
        """Return the expected log seconds at points (n, dimension), (n,); 0 where they are unknown."""
        return np.zeros(len(x)) if self.cost is None else self.cost.mean(x)

    def front(self) -> Front:
        """Return the known points that no other one beats in loss and cost, as predicted."""
        (losses, _), costs = self.losses(self.x), self.costs(self.x)
        costs = np.maximum(costs, np.quantile(costs, _CHEAP))
        order = np.lexsort((losses, costs))
        best = np.minimum.accumulate(losses[order])
        kept = order[np.concatenate([[True], best[1:] < best[:-1]])]
        return Front(self.x[kept], losses[kept], costs[kept])

    def acquisition(self, x: FloatArray, front: Front, log_most: float | None) -> FloatArray:
        """Return the logarithm of the expected improvement at points (n, dimension) over the front at their cost, (n,).

        log_most: log of the seconds that a candidate may take; None for no limit.
        """
        costs = self.costs(x)
        place = np.searchsorted(front.costs, costs, side="right") - 1
        improvement = _log_improvement(front.losses[np.maximum(place, 0)], *self.losses(x))
        if log_most is None or self.cost is None:
            return improvement
        doubt = np.hypot(self.cost.deviation(x), np.sqrt(self.cost.noise.mean()))
        return np.asarray(improvement + norm.logcdf((log_most - costs) / doubt))


def _log_improvement(best: FloatArray, mean: FloatArray, deviation: FloatArray) -> FloatArray:
    """Return the logarithm of the expected improvement of normal losses over `best`; all of shape (n,)."""
    deviation = np.maximum(deviation, 1e-12)
    z = (best - mean) / deviation
    # log(pdf + z cdf); far below the best, the asymptotic form does not cancel.
    near = np.log(np.maximum(norm.pdf(z) + z * norm.cdf(z), 1e-300))
    far = norm.logpdf(z) - 2.0 * np.log(np.maximum(-z, 1.0))
    return np.asarray(np.log(deviation) + np.where(z > -5.0, near, far))
