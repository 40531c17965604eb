"""Pareto fronts by coefficient gradients: one descent per preference, each warm-started from its nearest neighbor."""

from collections.abc import Mapping
from typing import ClassVar

from evomerge.optimizers._descent import why_no_descent
from evomerge.optimizers._sweep import CENTER, OTHERS, Sweep
from evomerge.optimizers.base import FloatArray, Measures, Observation, Optimizer, OptimizerError, Proposal


class GradientFront(Optimizer):
    """Descends the tasks' losses for every preference of a lattice; two or more objectives.

    Two tasks have 5 preferences, three have 10, four have 21. The first descent takes 4 evaluations of the split,
    each other one 2, and each point is scored once. Several workers take several descents, with the same points as one
    worker. It is made for many coefficients; with fewer than ten, `map` and `gp` find as much.

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
        """Return whether a descent can take its next step; the steps of one descent follow each other."""
        return self._running.ask(pending) is not None

    def evaluations_left(self) -> float:
        """Return what the descents to come cost, with one score for each."""
        return self._running.evaluations_left

    def decisions(self) -> tuple[str, ...]:
        """Return how many preferences there are."""
        n_preferences = len(self._running.preferences)
        return (f"One descent for each of {n_preferences} preferences among {self.n_objectives} tasks",)

    def recommend(self) -> FloatArray | None:
        """Return the current point of a descent that has not ended, (dimension,)."""
        return None if self._sweep is None else self._sweep.furthest

    @property
    def _running(self) -> Sweep:
        if self._sweep is None:
            raise OptimizerError("gradient_front needs to know the examples of the search: call `inform` first.")
        return self._sweep

    def _ask(self, number: int, pending: Mapping[int, FloatArray]) -> Proposal:  # noqa: ARG002 - contract
        # Where it wants nothing it may still be asked; the contract then moves away from this known point.
        return self._running.ask(pending) or Proposal(self._running.center.x, unraced=True)

    def _tell_part(self, observation: Observation) -> None:
        self._running.take(observation)

    def _tell(self, observation: Observation) -> None:
        # A budget that ended just before the score leaves the point scored as a recommendation.
        if self._sweep is not None and (observation.proposed or self._sweep.ends(observation.x)):
            self._sweep.solve(observation.x)
