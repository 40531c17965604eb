"""MAP: amortised Pareto fronts by surrogates (Li et al., 2024), verified. https://arxiv.org/abs/2406.07529

It departs from the paper where what its authors released was measured to fail: the design fills the space; fits are
binomial and ridge-regularised, and Gaussian processes model what a quadratic misses; the front is solved inside of the
box that was sampled; and what is predicted gets measured, until predicted and measured front agree.
"""

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import ClassVar

import numpy as np

from evomerge.optimizers._design import design, distance, full_size, n_distinct
from evomerge.optimizers._predicted_front import Forecaster, PredictedFront, recommended
from evomerge.optimizers._quasi_random import sobol_points
from evomerge.optimizers._surrogates import FEWEST, Choice
from evomerge.optimizers._verification import Volume
from evomerge.optimizers.base import FloatArray, Observation, Optimizer, OptimizerError, Prediction, Proposal
from evomerge.statistics import pareto

#: Points measured after the design before predictions are trusted to be the end of it.
VERIFIED = 4
#: Points closer than this in every coordinate are one measurement.
_SAME = 5e-3
#: Points of the design to look at, beyond as many as were told, for one that is not known.
_LONGEST = 100
#: Points besides the predicted front among which the next one is chosen; a power of two.
_N_ELSEWHERE = 64


class Map(Optimizer):
    """Measures a design, fits a surrogate per objective, solves their front, and measures what it promises most.

    Any number of objectives; every point of the study is learnt from, whoever proposed it. With examples told, the
    surrogates know how noisy a mean over them can be. Where `prefer` was said, what is preferred is measured first;
    where `limit` was, the front is solved within. The first ask after a tell takes up to 0.5 s of one core at 8
    coordinates, 4 objectives and 100 trials. Made for up to about 10 coordinates; it runs at 56 and more, where the
    surrogates see little more than a trend.

    initial: points of the design, those told by others included; by default as many as a full quadratic has
    coefficients, (K+1)(K+2)/2 for K coordinates, at most 45 or 2K+1, and at least K+1 of its own.
    surrogate: quadratic, gp, quadratic_gp, or auto: of the last two the one with the least leave-one-out error, per
    objective.
    stop: whether to ask for nothing more once predicted and measured front agree: at least 4 points were
    measured after the design, the latest came out as the others predict them within the noise of their examples or
    `tolerance` of the range, and no point is expected to add more than `tolerance` of the hypervolume.
    """

    max_objectives: ClassVar[int | None] = None
    redraws: ClassVar[int] = 0

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
        self._forecaster = Forecaster(seed, full_size(dimension) if initial is None else initial, surrogate)
        # A design of the default size has as many points of its own as a plane needs.
        self._least = dimension + 1 if initial is None else 0
        self._stop, self._tolerance = stop, tolerance

    def _ask(self, number: int, pending: Mapping[int, FloatArray]) -> Proposal:  # noqa: ARG002 - the state says all
        if self._designing(len(pending)):
            return self._next_of_design(pending)
        points, _ = self._promising(list(pending.values()))
        return Proposal(points[0]) if len(points) else self._next_of_design(pending)

    def _tell(self, observation: Observation) -> None:
        """Nothing to do: the base keeps what was told."""

    def wants(self, pending: Mapping[int, FloatArray]) -> bool:
        """False once the design is measured and predicted and measured front agree."""
        if not self._stop or self._designing(len(pending)):
            return True
        return not self._agree(list(pending.values()))

    def predictions(self) -> tuple[Prediction, ...]:
        """The predicted front, up to some 200 points; empty before the design is measured."""
        if self._designing(0):
            return ()
        return self._belief().predictions()

    def recommend(self) -> FloatArray | None:
        """The predicted front's point that the preference selects, where it beats all measured by more than noise."""
        return recommended(self.predictions(), self._measured(), self.preference, self.limits)

    def _designing(self, n_pending: int) -> bool:
        own = n_distinct(seen.x for seen in self._succeeded() if seen.proposed)
        return own + n_pending < self._n_own() or len(self._succeeded()) < FEWEST

    def _next_of_design(self, pending: Mapping[int, FloatArray]) -> Proposal:
        busy = {self.key(x) for x in pending.values()}
        points = islice(design(self.start, self.seed, self._forecaster.initial), _LONGEST + len(self._told))
        first = next(design(self.start, self.seed, self._forecaster.initial))
        return Proposal(next((x for x in points if not self.knows(x) and self.key(x) not in busy), first))

    def _belief(self) -> PredictedFront:
        return self._forecaster.front(self._succeeded(), self.preference, self.limits)

    def _promising(self, pending: Sequence[FloatArray]) -> tuple[FloatArray, FloatArray]:
        """Points (n, dimension) that are neither told nor pending, and what each is expected to add to the
        hypervolume, as a share of it (n,). What is pending counts as if it came out as expected."""
        belief, measured = self._belief(), self._measured()
        surrogates = belief.surrogates.believing(pending)
        if pending:
            measured = np.vstack([measured, surrogates.predict(np.array(pending))[0]])
        elsewhere = sobol_points(self.dimension, self.seed + 1 + len(self._told), _N_ELSEWHERE)
        taken = [*(seen.x for seen in self._told.values()), *pending]
        points = np.array([x for x in (*belief.x, *elsewhere) if distance(x, taken) > _SAME])
        if not len(points):
            return points, np.empty(0)
        losses, errors = surrogates.predict(points)
        volume = Volume.beyond(measured, losses - errors, self._worst(), self.preference, self.seed)
        gains = volume.expected_gains(losses, errors) / max(volume.covered, 1e-9)
        # Where nothing is expected to add anything, the nearest to the limits comes first, then the largest doubt.
        excess = np.maximum(0.0, losses - self.limits).sum(axis=1)
        order = np.lexsort((-errors.sum(axis=1), excess, -gains))
        return points[order], gains[order]

    def _worst(self) -> FloatArray:
        """Losses (n_objectives,) beyond which nothing counts: a tenth behind the measured front, within the limits."""
        measured = self._measured()
        ideal = measured.min(axis=0)
        nadir = measured[pareto.non_dominated(measured)].max(axis=0)
        span = np.maximum(nadir - ideal, np.ptp(measured, axis=0) / 2.0)
        return np.asarray(np.minimum(ideal + 1.1 * span, self.limits))

    def _agree(self, pending: Sequence[FloatArray]) -> bool:
        """Whether predicted and measured front are the same, as far as noise and `tolerance` let us see.

        Not before a point within the limits was measured.
        """
        told = self._succeeded()
        verified = [row for row, seen in enumerate(told) if seen.proposed][-VERIFIED:]
        if len([s for s in told if s.proposed]) < self._n_own() + VERIFIED:
            return False
        if not (self._measured() <= self.limits).all(axis=1).any():
            return False
        span = self._worst() - self._measured().min(axis=0)
        for model, width in zip(self._belief().surrogates.models, span, strict=True):
            gap = np.abs(model.left_out - model.data.losses)[verified].mean()
            if gap > max(model.data.loss_noise[verified].mean(), self._tolerance * width):
                return False
        _, gains = self._promising(pending)
        return not len(gains) or bool(gains[0] <= self._tolerance)

    def _n_own(self) -> int:
        """How many points of the design are its own."""
        others = n_distinct(seen.x for seen in self._succeeded() if not seen.proposed)
        return max(self._forecaster.initial - others, FEWEST - others, self._least)

    def _measured(self) -> FloatArray:
        """Losses (n_points, n_objectives)."""
        return np.array([seen.losses for seen in self._succeeded()])

    def _succeeded(self) -> list[Observation]:
        return [seen for seen in self._told.values() if seen.losses is not None]
