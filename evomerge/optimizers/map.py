"""MAP: amortized Pareto fronts by surrogates (Li et al., 2024), verified. https://arxiv.org/abs/2406.07529

It departs from the paper where measurements showed the released code to fail: the design fills the space; fits are
binomial and ridge-regularized, and Gaussian processes model the residual of a quadratic; the front is solved inside
the sampled box; and predictions are measured until the predicted and the measured front agree.
"""

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import ClassVar

import numpy as np

from evomerge.optimizers._design import design, distance, full_size, n_distinct, tied_design
from evomerge.optimizers._predicted_front import BEYOND_LIMITS, Forecaster, PredictedFront, recommended
from evomerge.optimizers._regions import Neighborhood, Region, Tied, Whole
from evomerge.optimizers._surrogates import FEWEST, Choice, Surrogates, fit
from evomerge.optimizers._threads import one_thread
from evomerge.optimizers._verification import Volume
from evomerge.optimizers.base import (
    FloatArray,
    Measures,
    Observation,
    Optimizer,
    OptimizerError,
    Positions,
    Prediction,
    Proposal,
)
from evomerge.statistics import pareto

#: Points measured after the design before the search may end.
VERIFIED = 4
#: Points closer than this in every coordinate count as one measurement.
_SAME = 5e-3
#: Design points to try, beyond as many as were told, when looking for a new one.
_LONGEST = 100
#: Most coordinates for which the design fills the cube and the surrogates need no positions.
_FEW = 10
#: Own points with one value per series, in a space of many coordinates, before all are free.
_N_TIED = 20
#: Smallest leave-one-out R^2 of every objective with which fronts may be said to agree.
_RELIABLE = 0.9
#: What the whole predicted front may add, in tolerances, where the coordinates are many.
_TOGETHER = 5.0
#: Measurements after which `decisions` first tells of it.
_FIRST_REPORT = 25


class Map(Optimizer):
    """Measures a design, fits a surrogate per objective, solves their Pareto front, and measures the best of it.

    Supports any number of objectives and learns from every point of the study, whatever its origin. Per-example losses
    tell the surrogates the sampling error of a mean. A preference set by `prefer` is measured first; bounds set by
    `limit` constrain the front.

    Up to 10 coordinates, the design fills the cube. With more, the search goes from coarse to fine: until 20 points are
    measured, the coordinates of one parameter and input move together (2K+2 design points for K of these series, then
    the best of their predicted front); then all are free, near the measured front. The surrogates know which
    coordinates are neighbors in depth. The first ask after a tell takes up to 0.5 s of one core at 8 coordinates, 4
    objectives and 100 trials, 0.7 s at 72 coordinates, 3 objectives and 150 trials.

    Args:
        initial: Design size, including points told from elsewhere; by default the number of coefficients of a full
            quadratic, (K+1)(K+2)/2 for K coordinates, at most 45, and at least K+1 of its own; see above for more than
            10 coordinates.
        surrogate: "quadratic", "gp", "quadratic_gp", or "auto": for each objective, whichever of the last two has the
            smaller leave-one-out error; for more than 10 coordinates, a process that relates neighbors in depth.
        stop: Whether to end once the predicted and the measured front agree: at least 4 points were measured after the
            design (and with all coordinates free), the leave-one-out R^2 of every objective is above 0.9, the latest
            points match their predictions within the sampling error of their examples or `tolerance` of the range, and
            no point is expected to add more than `tolerance` of the hypervolume (and with more than 10 coordinates, the
            predicted front as a whole no more than 5 times that).
        tolerance: Accepted disagreement of the fronts, as a fraction between 0 and 1.
    """

    max_objectives: ClassVar[int | None] = None
    redraws: ClassVar[int] = 0
    uses_positions: ClassVar[bool] = True

    def __init__(
        self,
        dimension: int,
        n_objectives: int,
        seed: int,
        start: FloatArray | None = None,
        *,
        initial: int | None = None,
        surrogate: Choice = "auto",
        stop: bool = True,
        tolerance: float = 0.004,
    ) -> None:
        super().__init__(dimension, n_objectives, seed, start)
        if not 0.0 < tolerance < 1.0:
            raise OptimizerError(f"tolerance must be between 0 and 1; it is {tolerance}.")
        self._given, self._surrogate = initial, surrogate
        self._stop, self._tolerance = stop, tolerance
        self._positions: Positions | None = None
        self._reports: dict[int, str] = {}
        self._forecaster, self._least = self._begin()

    def inform(self, measures: Measures) -> None:
        """Take note of where the coordinates act, if there are many."""
        super().inform(measures)
        self._positions = measures.positions
        self._forecaster, self._least = self._begin()

    def _begin(self) -> tuple[Forecaster, int]:
        """Return the forecaster, and the least number of own design points."""
        few = self.dimension <= _FEW
        size = full_size(self.dimension) if few else min(2 * self._places.n_series + 2, _N_TIED)
        forecaster = Forecaster(self.seed, size if self._given is None else self._given, self._surrogate)
        if not few:
            forecaster.positions = self._places
        # A default design has at least as many points of its own as a plane has coefficients.
        return forecaster, self.dimension + 1 if few and self._given is None else 0

    @property
    def _places(self) -> Positions:
        """Where the coordinates act; all in one place where that is unknown."""
        if self._positions is not None:
            return self._positions
        return Positions(np.zeros(self.dimension, dtype=np.int64), np.zeros(self.dimension))

    def _ask(self, number: int, pending: Mapping[int, FloatArray]) -> Proposal:  # noqa: ARG002 - not needed here
        if self._designing(len(pending)):
            return self._next_of_design(pending)
        points, _ = self._promising(list(pending.values()))
        return Proposal(points[0]) if len(points) else self._next_of_design(pending)

    def _tell(self, observation: Observation) -> None:
        """Do nothing: the base class keeps the observations."""

    @one_thread
    def wants(self, pending: Mapping[int, FloatArray]) -> bool:
        """Return False once the design is measured and the predicted and the measured front agree."""
        if not self._stop or self._designing(len(pending)):
            return True
        return not self._agree(list(pending.values()))

    @one_thread
    def decisions(self) -> tuple[str, ...]:
        """Return whether the surrogates are reliable enough to end, after every doubling of the measurements."""
        n, said = len(self._succeeded()), []
        mark = _FIRST_REPORT
        while self._stop and mark <= n:
            said.append(self._report_on(mark))
            mark *= 2
        return tuple(said)

    @one_thread
    def predictions(self) -> tuple[Prediction, ...]:
        """Return up to some 200 points of the predicted front; none before the design is measured."""
        if self._designing(0):
            return ()
        return self._belief().predictions()

    def why_no_predictions(self) -> str:
        """Return what is missing: measurements of the design, or a predicted point within the limits."""
        if not self._designing(0):
            return BEYOND_LIMITS
        return f"map predicts a front once its design of {self._n_own()} points is measured; {self._measured_own()} are"

    @one_thread
    def recommend(self) -> FloatArray | None:
        """Return the predicted point that the preference selects, if it beats all measured ones by more than noise."""
        return recommended(self.predictions(), self._measured(), self.preference, self.limits)

    def _designing(self, n_pending: int) -> bool:
        return self._measured_own() + n_pending < self._n_own() or len(self._succeeded()) < FEWEST

    def _measured_own(self) -> int:
        return n_distinct(seen.x for seen in self._succeeded() if seen.proposed)

    def _next_of_design(self, pending: Mapping[int, FloatArray]) -> Proposal:
        busy = {self.key(x) for x in pending.values()}
        size = self._forecaster.initial
        endless = (
            design(self.start, self.seed, size)
            if self.dimension <= _FEW
            else tied_design(self.start, self.seed, size, self._places)
        )
        points = islice(endless, _LONGEST + len(self._told))
        return Proposal(next((x for x in points if not self.knows(x) and self.key(x) not in busy), self.start))

    def _belief(self) -> PredictedFront:
        return self._forecaster.front(self._succeeded(), self.preference, self.limits, self._region())

    def _region(self) -> Region:
        if self.dimension <= _FEW:
            return Whole()
        tied = self._places.n_series > 1 and self._measured_own() < _N_TIED
        return Tied(self._places) if tied else Neighborhood(self._places)

    def _promising(self, pending: Sequence[FloatArray]) -> tuple[FloatArray, FloatArray]:
        """Return points (n, dimension) neither told nor pending, and the fraction of the hypervolume that each is
        expected to add, (n,). Pending points count as if they had their expected losses."""
        belief, measured = self._belief(), self._measured()
        surrogates = belief.surrogates.believing(pending)
        if pending:
            measured = np.vstack([measured, surrogates.predict(np.array(pending))[0]])
        elsewhere = belief.elsewhere(self.seed + 1 + len(self._told))
        taken = [*(seen.x for seen in self._told.values()), *pending]
        points = np.array([x for x in (*belief.x, *elsewhere) if distance(x, taken) > _SAME])
        if not len(points):
            return points, np.empty(0)
        losses, errors = surrogates.predict(points)
        volume = Volume.beyond(measured, losses - errors, self._worst(), self.preference, self.seed)
        gains = volume.expected_gains(losses, errors) / max(volume.covered, 1e-9)
        # Where no gain is expected, rank by distance to the limits, then by the larger standard error.
        excess = np.maximum(0.0, losses - self.limits).sum(axis=1)
        order = np.lexsort((-errors.sum(axis=1), excess, -gains))
        return points[order], gains[order]

    def _worst(self) -> FloatArray:
        """Return the reference losses (n_objectives,): a tenth beyond the measured front, within limits."""
        measured = self._measured()
        ideal = measured.min(axis=0)
        nadir = measured[pareto.non_dominated(measured)].max(axis=0)
        span = np.maximum(nadir - ideal, np.ptp(measured, axis=0) / 2.0)
        return np.asarray(np.minimum(ideal + 1.1 * span, self.limits))

    def _agree(self, pending: Sequence[FloatArray]) -> bool:
        """Return whether the predicted and the measured front are equal, up to noise and `tolerance`.

        Never before a point within the limits was measured.
        """
        told = self._succeeded()
        verified = [row for row, seen in enumerate(told) if seen.proposed][-VERIFIED:]
        least = self._n_own() if self.dimension <= _FEW else max(self._n_own(), _N_TIED)
        if len([s for s in told if s.proposed]) < least + VERIFIED:
            return False
        if not (self._measured() <= self.limits).all(axis=1).any():
            return False
        if self._unreliable(self._belief().surrogates):
            return False
        span = self._worst() - self._measured().min(axis=0)
        for model, width in zip(self._belief().surrogates.models, span, strict=True):
            gap = np.abs(model.left_out - model.data.losses)[verified].mean()
            if gap > max(model.data.loss_noise[verified].mean(), self._tolerance * width):
                return False
        if self.dimension > _FEW and self._left_over() > _TOGETHER * self._tolerance:
            return False
        _, gains = self._promising(pending)
        return not len(gains) or bool(gains[0] <= self._tolerance)

    def _left_over(self) -> float:
        """Return the fraction of the hypervolume that the predicted front is expected to add as a whole.

        Where fronts are long, no single point adds much.
        """
        belief, measured = self._belief(), self._measured()
        losses, _ = belief.surrogates.predict(belief.x)
        volume = Volume.beyond(measured, losses, self._worst(), self.preference, self.seed)
        return volume.joint_gain(losses) / max(volume.covered, 1e-9)

    def _unreliable(self, surrogates: Surrogates) -> list[int]:
        """Return the objectives whose leave-one-out R^2 is too small for a claim.

        With few coordinates the design fills the cube, so an objective that varies by no more than the sampling error
        of its examples is flat, and counts as predicted.
        """
        few = self.dimension <= _FEW
        return [
            objective
            for objective, model in enumerate(surrogates.models)
            if model.r_squared <= _RELIABLE and not (few and model.data.losses.std() <= model.data.loss_noise.mean())
        ]

    def _report_on(self, n: int) -> str:
        """Return how reliable the surrogates of the first `n` measurements are; fitted once."""
        if n not in self._reports:
            surrogates = fit(self._succeeded()[:n], self.n_objectives, self._surrogate, self._forecaster.positions)
            tasks = () if self.measures is None else self.measures.tasks
            names = [task.name for task in tasks] if len(tasks) == self.n_objectives else None
            low = [
                f"{surrogates.models[m].r_squared:.2f} for {names[m] if names else f'objective {m + 1}'}"
                for m in self._unreliable(surrogates)
            ]
            self._reports[n] = (
                f"After {n} measurements map goes on in any case: its leave-one-out R^2 is {', '.join(low)}, and it "
                f"ends only above {_RELIABLE} for every objective"
                if low
                else f"After {n} measurements the surrogates are reliable: map ends once the predicted and the "
                "measured front agree"
            )
        return self._reports[n]

    def _n_own(self) -> int:
        """Return the number of own design points."""
        others = n_distinct(seen.x for seen in self._succeeded() if not seen.proposed)
        return max(self._forecaster.initial - others, FEWEST - others, self._least)

    def _measured(self) -> FloatArray:
        """Return the losses (n_points, n_objectives)."""
        return np.array([seen.losses for seen in self._succeeded()])

    def _succeeded(self) -> list[Observation]:
        return [seen for seen in self._told.values() if seen.losses is not None]
