"""Pareto fronts by coefficient gradients: one descent per preference, each warm-started from its nearest neighbor."""

from collections.abc import Mapping
from typing import ClassVar

from evomerge.optimizers._descent import why_no_descent
from evomerge.optimizers._sweep import CENTER, OTHERS, Sweep
from evomerge.optimizers.base import FloatArray, Measures, Observation, Optimizer, OptimizerError, Proposal


class GradientFront(Optimizer):
    """Descends the tasks' losses for every preference of a lattice; two or more objectives, one trial at a time.

    Two tasks have 5 preferences, three have 10, four have 21. The first descent takes 4 evaluations of the split,
    each other one 2, and each point is scored once. It is made for many coefficients; with fewer than ten, `map` and
    `gp` find as much.

    Args:
        center: Evaluations of the first descent, in which the tasks are weighted as in `prefer`.
        others: Evaluations of each other descent.
    """

    uses_parts: ClassVar[bool] = True
    follows_gradients: ClassVar[bool] = True
    min_objectives: ClassVar[int] = 2
    max_objectives: ClassVar[int | None] = None

    def __init__(
        self,
        dimension: int,
        n_objectives: int,
        seed: int,
        start: FloatArray | None = None,
        *,
        center: float = CENTER,
        others: float = OTHERS,
    ) -> None:
        super().__init__(dimension, n_objectives, seed, start)
        if not (center > 0 and others > 0):
            raise OptimizerError(f"center and others must be above 0; they are {center} and {others}.")
        self._budgets = center, others
        self._sweep: Sweep | None = None

    def inform(self, measures: Measures) -> None:
        """Set up the descents. Raises OptimizerError where no task has a loss, or the merge has no gradient."""
        super().inform(measures)
        reason = why_no_descent(measures)
        blind = [task.name for task in measures.tasks if task.no_loss is not None]
        if reason is None and blind:
            reason = f"{', '.join(blind)} has no differentiable loss, and every objective needs one."
        if reason is not None:
            raise OptimizerError(f"{reason} Use `optimizer: auto`, which goes on without, or map.")
        center, others = self._budgets
        self._sweep = Sweep(self.start, measures, self.preference, self.seed, center=center, others=others)

    def wants(self, pending: Mapping[int, FloatArray]) -> bool:
        """Return whether the next step can be taken: one at a time, until every preference has its point."""
        return not pending and not self._running.finished

    def evaluations_left(self) -> float:
        """Return what the descents to come cost, with one score for each."""
        return self._running.evaluations_left

    def decisions(self) -> tuple[str, ...]:
        """Return how many preferences there are."""
        n_preferences = len(self._running.preferences)
        return (f"One descent for each of {n_preferences} preferences among {self.n_objectives} tasks",)

    def recommend(self) -> FloatArray | None:
        """Return the current point of a descent that has not ended, (dimension,)."""
        sweep = self._sweep
        return None if sweep is None or sweep.finished or sweep.descent.step == 0 else sweep.descent.x

    @property
    def _running(self) -> Sweep:
        if self._sweep is None:
            raise OptimizerError("gradient_front needs to know the examples of the search: call `inform` first.")
        return self._sweep

    def _ask(self, number: int, pending: Mapping[int, FloatArray]) -> Proposal:  # noqa: ARG002 - contract
        descent = self._running.descent
        if descent.finished:
            return Proposal(descent.x, unraced=True)
        return Proposal(descent.x, rows=descent.rows(), gradient=descent.weights)

    def _tell_part(self, observation: Observation) -> None:
        self._running.descent.take(observation.gradient)

    def _tell(self, observation: Observation) -> None:
        if self._sweep is None or self._sweep.finished:
            return
        # A budget that ended just before the score leaves the point scored as a recommendation.
        descent = self._sweep.descent
        if observation.proposed or (descent.finished and observation.x.tolist() == descent.x.tolist()):
            self._sweep.next()
