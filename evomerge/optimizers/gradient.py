"""Coefficient gradients: one backward pass gives the derivative of the tasks' losses by every coefficient at once.

The derivative of a merge by a coefficient is its task vector, so the gradient of the weights, contracted with the task
vectors, is that of the coefficients (AdaMerging, https://arxiv.org/abs/2310.02575, does it with entropy). The losses
are the evaluators', the steps are Adam's on small batches of examples, and the true metric guards both.
"""

from collections.abc import Mapping
from typing import ClassVar

from evomerge.optimizers._descent import PEAK, Descent, loss_weights, why_no_descent
from evomerge.optimizers._guard import compare
from evomerge.optimizers.base import FloatArray, Measures, Observation, Optimizer, OptimizerError, Proposal

#: Steps of a descent that is also checked half-way.
_ENOUGH_FOR_HALVES = 16


class Gradient(Optimizer):
    """Descends the tasks' differentiable losses from the start. One objective; one trial at a time.

    Its last point is scored on all search examples, and so is the point half-way: where the metric has become worse by
    more than one standard error, the loss does not follow the metric, and the descent ends. Tasks without a loss are
    left out of the descent, not of the scores.

    Args:
        evaluations: Budget of the descent, in evaluations of the search split; 5 is nearly as good as 10.
        peak: Largest step, as a share of a coefficient's range. Half or twice the default ends within a point of it.
        batch: Examples per step; by default 8 to 32, so that there are about 60 steps.
    """

    uses_parts: ClassVar[bool] = True
    follows_gradients: ClassVar[bool] = True
    max_objectives: ClassVar[int | None] = 1

    def __init__(
        self,
        dimension: int,
        n_objectives: int,
        seed: int,
        start: FloatArray | None = None,
        *,
        evaluations: float = 10.0,
        peak: float = PEAK,
        batch: int | None = None,
    ) -> None:
        super().__init__(dimension, n_objectives, seed, start)
        if not evaluations > 0:
            raise OptimizerError(f"evaluations must be above 0; it is {evaluations}.")
        if not 0 < peak <= 1:
            raise OptimizerError(f"peak must lie in (0, 1], a share of a coefficient's range; it is {peak}.")
        if batch is not None and batch < 1:
            raise OptimizerError(f"batch must be at least 1 example; it is {batch}.")
        self._evaluations, self._peak, self._batch = evaluations, peak, batch
        self._descent: Descent | None = None
        self._start: Observation | None = None
        self._checks: list[int] = []
        self._ended = False
        self._decisions: list[str] = []

    def inform(self, measures: Measures) -> None:
        """Set up the descent. Raises OptimizerError where no task has a loss, or the merge has no gradient."""
        super().inform(measures)
        usable = why_no_descent(measures)
        if usable is not None:
            raise OptimizerError(f"{usable} Use `optimizer: auto`, which goes on without, or cma_es.")
        weights = loss_weights(measures)
        self._descent = Descent(
            self.start,
            measures.tasks,
            weights,
            self._evaluations,
            (self.seed, 0),
            peak=self._peak,
            batch=self._batch,
        )
        left = [f"{task.name} ({task.no_loss})" for task in measures.tasks if task.no_loss is not None]
        if left:
            self._decisions.append(
                f"Tasks without a differentiable loss are left out of the descent: {', '.join(left)}"
            )

    def wants(self, pending: Mapping[int, FloatArray]) -> bool:
        """Return whether the next step can be taken: one at a time, until the last point is scored."""
        return not pending and not self._ended

    def evaluations_left(self) -> float:
        """Return what the steps to come and their checks cost."""
        if self._ended:
            return 0.0
        run = self._run
        half_way = run.n_steps >= _ENOUGH_FOR_HALVES and not self._checks
        return run.evaluations_left + 1 + half_way

    def decisions(self) -> tuple[str, ...]:
        """Return which tasks have no loss, and what the guard found."""
        return tuple(self._decisions)

    def recommend(self) -> FloatArray | None:
        """Return the current point of a descent that has not ended, (dimension,)."""
        run = self._descent
        return None if run is None or self._ended or run.step == 0 else run.x

    @property
    def _check_is_due(self) -> bool:
        """Whether the true metric is wanted at the current point: half-way and at the end."""
        run = self._descent
        if run is None:
            return False
        half_way = run.step == run.n_steps // 2 and run.n_steps >= _ENOUGH_FOR_HALVES and not self._checks
        return run.finished or half_way

    @property
    def _run(self) -> Descent:
        if self._descent is None:
            raise OptimizerError(
                "The gradient optimizer needs to know the examples of the search: call `inform` first."
            )
        return self._descent

    def _ask(self, number: int, pending: Mapping[int, FloatArray]) -> Proposal:  # noqa: ARG002 - contract
        run = self._run
        if self._check_is_due:
            return Proposal(run.x, unraced=True)
        return Proposal(run.x, rows=run.rows(), gradient=run.weights)

    def _tell_part(self, observation: Observation) -> None:
        self._run.take(observation.gradient)

    def _tell(self, observation: Observation) -> None:
        # A budget that ended just before a check leaves the point scored as a recommendation.
        is_check = self._check_is_due and observation.x.tolist() == self._run.x.tolist()
        if not observation.proposed and not is_check:
            if observation.x.tolist() == self.start.tolist() and observation.losses is not None:
                self._start = self._start or observation
            return
        run = self._run
        self._checks.append(observation.number)
        self._ended = run.finished
        if self._start is None or self.measures is None:
            return
        found = compare(self._start, observation, self.measures)
        if not found.passed:
            self._ended = True
            worse = f" ({', '.join(found.worse)})" if found.worse else ""
            self._decisions.append(
                f"The loss does not follow the metric{worse}: after {run.step} of {run.n_steps} gradient steps the "
                f"score is {-found.gain:.4f} below the start's (standard error {found.error:.4f}). The descent ends"
            )
        elif run.finished:
            self._decisions.append(
                f"The descent is done: {run.n_steps} steps, and the score is {found.gain:+.4f} from the start's "
                f"(standard error {found.error:.4f})"
            )
