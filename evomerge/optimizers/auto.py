"""auto: coefficient gradients where the tasks have losses, black-box search where there are none or they mislead.

    start ─▶ descent in coarse groups ─▶ descent in every tensor ─▶ long descent ─▶ done
                 │ no loss, the metric says no, or a baseline is ahead │ some tasks have no loss
                 └──────────────▶ CMA-ES from the best baseline        └─▶ CMA-ES around the best point

For a Pareto front, descents for a lattice of preferences take the place of the stages, and `map` that of CMA-ES; it
also completes the front that the descents found.
Each decision is taken on the true metric over all search examples, and told with its reason.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import cmaes
import numpy as np
from numpy.typing import NDArray

from evomerge import plugins
from evomerge.optimizers._descent import Descent, loss_weights, why_no_descent
from evomerge.optimizers._generations import Generations
from evomerge.optimizers._guard import compare
from evomerge.optimizers._sweep import Sweep
from evomerge.optimizers.base import (
    FloatArray,
    Measures,
    Observation,
    Optimizer,
    OptimizerError,
    Prediction,
    Proposal,
)
from evomerge.plugins import PluginSpec

#: Evaluations of the descent in coarse groups, of that in all coordinates, and of the long one at the end.
_COARSE, _FINE, _LONG = 5.0, 5.0, 25.0
#: Gradients that may fail before black-box search takes over, if none has succeeded.
_TRIES = 3
#: Standard deviation of CMA-ES around a point that a descent found, in cube widths.
_NEAR = 0.05


class Auto(Optimizer):
    """Chooses the search by what the tasks allow: gradients in stages, then black box where something is left to find.

    With losses for all tasks it ends by itself, after about 40 evaluations of the search split; the first answer comes
    after 12. A Pareto front takes about 3 for each preference, of which three tasks have ten; then `map` models the
    front from these points and measures what it predicts, until the two agree. The steps of a descent follow each
    other, so several workers help where a front has several descents, and the black-box search.

    Args:
        evaluations: Budget of the last, long descent, in evaluations of the search split.
    """

    uses_parts: ClassVar[bool] = True
    follows_gradients: ClassVar[bool] = True
    uses_positions: ClassVar[bool] = True
    max_objectives: ClassVar[int | None] = None

    def __init__(
        self,
        dimension: int,
        n_objectives: int,
        seed: int,
        start: FloatArray | None = None,
        *,
        evaluations: float = _LONG,
    ) -> None:
        super().__init__(dimension, n_objectives, seed, start)
        if not evaluations > 0:
            raise OptimizerError(f"evaluations must be above 0; it is {evaluations}.")
        self._evaluations = evaluations
        self._stages: list[_Stage] = []
        self._black_box: _BlackBox | None = None
        self._front: Optimizer | None = None
        self._sweep: Sweep | None = None
        self._start: Observation | None = None
        self._found: list[Observation] = []
        self._best: Observation | None = None
        self._best_groups: NDArray[np.int64] | None = None
        self._descent: Descent | None = None
        self._n_gradients = 0
        self._ended = False
        self._decisions: list[str] = []

    def inform(self, measures: Measures) -> None:
        """Plan the stages."""
        super().inform(measures)
        reason = why_no_descent(measures)
        blind = _blind(measures)
        if reason is None and self.n_objectives > 1 and blind:
            reason = f"{', '.join(blind)} has no differentiable loss, and every objective needs one."
        if reason is not None:
            self._search_blindly(f"Black-box search: {reason}")
            return
        weights = loss_weights(measures)
        named = [task.name for task, weight in zip(measures.tasks, weights, strict=True) if weight > 0]
        self._decisions.append(f"Gradients on {', '.join(named)}, which have a differentiable loss")
        if self.n_objectives > 1:
            self._sweep = Sweep(self.start, measures, self.preference, self.seed)
            self._decisions.append(
                f"One descent for each of {len(self._sweep.preferences)} preferences among the tasks"
            )
            return
        coarse = measures.coarse if measures.coarse is not None and len(set(measures.coarse.tolist())) > 1 else None
        if coarse is not None:
            self._stages.append(_Stage("in coarse groups", _COARSE, groups=coarse))
            self._stages.append(_Stage("in all groups", _FINE))
        else:
            self._stages.append(_Stage("in all groups", _COARSE))
        self._descend()

    def wants(self, pending: Mapping[int, FloatArray]) -> bool:
        """Return whether another trial would help now; steps of a descent follow each other."""
        if self._ended:
            return False
        if self._front is not None:
            return self._front.wants(pending)
        if self._black_box is not None:
            return True
        return not pending if self._sweep is None else self._sweep.ask(pending) is not None

    def evaluations_left(self) -> float | None:
        """Return what the descents to come and their checks cost if the metric follows the loss.

        None for fronts and black box, which go on as long as they find something.
        """
        if self._ended:
            return 0.0
        if self._descent is None or self._black_box is not None or _blind(self._known_measures):
            return None
        later = [stage.evaluations for stage in self._stages[1:]]
        if not self._stages[0].afresh:
            later.append(self._evaluations)
        left = self._descent.evaluations_left + 1
        return left + sum(evaluations * self._descent.share + 1 for evaluations in later)

    def recommend(self) -> FloatArray | None:
        """Return the mean of the black-box search, or the current point of a descent that has not ended."""
        if self._front is not None:
            return self._front.recommend()
        if self._black_box is not None:
            return self._black_box.recommend()
        if self._sweep is not None:
            return self._sweep.furthest
        begun = not self._ended and self._descent is not None and self._descent.step > 0
        return self._running.x if begun else None

    def decisions(self) -> tuple[str, ...]:
        """Return what was decided so far, and why."""
        return (*self._decisions, *(() if self._front is None else self._front.decisions()))

    def predictions(self) -> tuple[Prediction, ...]:
        """Return the front that `map` predicts; empty before it takes over."""
        return () if self._front is None else self._front.predictions()

    def why_no_predictions(self) -> str | None:
        """Return why there is no predicted front; None for one objective, whose losses are not modeled."""
        if self._front is not None:
            return self._front.why_no_predictions()
        return None if self.n_objectives == 1 else "auto predicts a front once every preference has its point"

    def prefer(self, weights: Sequence[float]) -> None:
        """Set the relative weight of each objective."""
        super().prefer(weights)
        if self._front is not None:
            self._front.prefer(weights)

    def limit(self, losses: Sequence[float]) -> None:
        """Set upper bounds on the losses of an acceptable point."""
        super().limit(losses)
        if self._front is not None:
            self._front.limit(losses)

    def _ask(self, number: int, pending: Mapping[int, FloatArray]) -> Proposal:
        if self._front is not None:
            return self._front.ask(number, pending)
        if self._black_box is not None:
            return Proposal(self._black_box.ask(self._seed32(number)))
        if self._sweep is not None:
            return self._sweep.ask(pending) or Proposal(self._sweep.center.x, unraced=True)
        run = self._running
        if run.finished:
            return Proposal(run.x, unraced=True)
        return Proposal(run.x, rows=run.rows(), gradient=run.weights)

    def _tell_part(self, observation: Observation) -> None:
        if self._black_box is not None or self._front is not None:
            return
        if self._sweep is not None:
            self._sweep.take(observation)
        else:
            self._running.take(observation.gradient)
        self._n_gradients += observation.gradient is not None
        skipped = (self._running if self._sweep is None else self._sweep.center).skipped
        if not self._n_gradients and skipped == _TRIES:
            self._sweep = None
            self._search_blindly(f"The first {_TRIES} gradients failed: black-box search from the best baseline")

    def _tell(self, observation: Observation) -> None:
        if self._front is not None:
            self._front.tell(observation)
        elif self._black_box is not None:
            self._black_box.tell(observation)
        elif not observation.proposed and not self._ends_a_descent(observation):
            if self._start is None and observation.x.tolist() == self.start.tolist() and observation.losses is not None:
                self._start = observation
            self._found.append(observation)
        elif self._sweep is not None:
            self._found.append(observation)
            self._follow(self._sweep, observation)
        else:
            self._decide(observation)

    def _ends_a_descent(self, observation: Observation) -> bool:
        """Whether a recommendation, scored where a budget ended, is the point that a descent ends with."""
        if self._sweep is not None:
            return self._sweep.ends(observation.x)
        if self._ended or self._descent is None or not self._descent.finished:
            return False
        return bool(observation.x.tolist() == self._descent.x.tolist())

    @property
    def _running(self) -> Descent:
        if self._descent is None:
            raise OptimizerError("auto needs to know the examples of the search: call `inform` first.")
        return self._descent

    @property
    def _known_measures(self) -> Measures:
        if self.measures is None:
            raise OptimizerError("auto needs to know the examples of the search: call `inform` first.")
        return self.measures

    def _follow(self, sweep: Sweep, end: Observation) -> None:
        """Go on with the next preference, unless the first point says that the loss misleads."""
        if not sweep.n_solved and self._start is not None:
            found = compare(self._start, end, self._known_measures)
            if not found.passed:
                worse = f" on {', '.join(found.worse)}" if found.worse else ""
                self._sweep = None
                self._search_blindly(f"The loss does not follow the metric{worse}: black-box search")
                return
        sweep.solve(end.x)
        if sweep.finished:
            self._sweep = None
            self._decisions.append(f"All {sweep.n_solved} preferences have their point: map completes the front")
            self._model_the_front()

    def _descend(self) -> None:
        """Begin the next stage, from the best point of the stages before; the long one from the start."""
        stage, measures = self._stages[0], self._known_measures
        begin = self.start if self._best is None or stage.afresh else self._best.x
        key = (self.seed, 1 + len(self._decisions))
        self._descent = Descent(
            begin, measures.tasks, loss_weights(measures), stage.evaluations, key, groups=stage.groups
        )

    def _decide(self, end: Observation) -> None:
        """Take the next decision from the score at the end of a stage."""
        stage, measures, run = self._stages.pop(0), self._known_measures, self._running
        found = None if self._start is None else compare(self._start, end, measures)
        skipped = f"; {run.skipped} steps skipped, their gradients not finite" if run.skipped else ""
        said = f"Descent {stage.name}, {run.n_steps} steps: "
        if found is not None:
            said += f"score {found.gain:+.4f} from the start's (standard error {found.error:.4f}){skipped}"
        if end.losses is None or (found is not None and (found.unmoved or not found.passed)):
            worse = f" on {', '.join(found.worse)}" if found is not None and found.worse else ""
            unmoved = found is not None and found.unmoved
            said += ". No example is scored differently" if unmoved else f". The loss does not follow the metric{worse}"
            if self._best is None:
                self._search_blindly(f"{said}: black-box search from the best baseline")
                return
            self._stages = []
        elif self._best is None or self._best.losses is None or end.losses[0] < self._best.losses[0]:
            said += ". Kept as the best point"
            self._best, self._best_groups = end, stage.groups
        else:
            said += ". The earlier point scores at least as high and is kept"
        self._decisions.append(said)
        if self._stages:
            self._descend()
        elif stage.afresh or end.losses is None or self._behind:
            self._finish()
        elif all(task.no_loss is None or task.share == 0 for task in measures.tasks):
            self._stages = [_Stage("at length", self._evaluations, groups=self._best_groups, afresh=True)]
            self._descend()
        else:
            self._finish()

    @property
    def _behind(self) -> bool:
        """Whether a baseline scores higher than every descent: these have stalled, as they do on normalized TIES."""
        if self._best is None or self._best.losses is None:
            return False
        reached = self._best.losses[0]
        return any(told.losses is not None and told.losses[0] < reached for told in self._found)

    def _finish(self) -> None:
        """End, or search on by black box where descents stalled or could not see every task."""
        measures = self._known_measures
        if self._behind:
            self._search_blindly("A baseline scores higher than every descent: black-box search from the best baseline")
            return
        blind = _blind(measures)
        if not blind or self._best is None:
            self._ended = True
            self._decisions.append(
                "The search ends: where the metric follows the descents, black-box search gained nothing in experiments"
            )
            return
        self._decisions.append(
            f"Black-box search around the best point, since {', '.join(blind)} has no differentiable loss"
        )
        self._black_box = _BlackBox(self.start, measures.coarse, around=self._best.x)

    def _search_blindly(self, reason: str) -> None:
        self._decisions.append(reason)
        if self.n_objectives > 1:
            self._model_the_front()
            return
        self._black_box = _BlackBox(self.start, self._known_measures.coarse, around=None)
        for told in self._found:
            self._black_box.tell(told)

    def _model_the_front(self) -> None:
        front: Optimizer = plugins.build(
            "optimizer",
            PluginSpec("map"),
            Optimizer,
            dimension=self.dimension,
            n_objectives=self.n_objectives,
            seed=self.seed,
            start=self.start,
        )
        self._front = front
        self._front.identify(self.key)
        self._front.prefer(self.preference.tolist())
        self._front.limit(self.limits.tolist())
        self._front.inform(self._known_measures)
        for told in self._found:
            self._front.tell(told)


@dataclass(frozen=True, eq=False)
class _Stage:
    """A descent to come. groups: coordinates that move together. afresh: from the start, not from the best point."""

    name: str
    evaluations: float
    groups: NDArray[np.int64] | None = None
    afresh: bool = False


class _BlackBox:
    """CMA-ES over coarse groups: from the best baseline, or over offsets from one point."""

    def __init__(self, start: FloatArray, coarse: NDArray[np.int64] | None, around: FloatArray | None) -> None:
        groups = np.arange(len(start)) if coarse is None else coarse
        _, self._first, self._groups = np.unique(groups, return_index=True, return_inverse=True)
        self._around = around
        if around is None:
            self._generations = Generations(cmaes.CMA, start[self._first], None, None, follow=True)
        else:
            self._generations = Generations(cmaes.CMA, np.full(len(self._first), 0.5), _NEAR, None)

    def ask(self, seed: int) -> FloatArray:
        """Return the point that the distribution draws with a seed, (dimension,)."""
        return self._outward(self._generations.sample(seed))

    def tell(self, observation: Observation) -> None:
        """Learn from a candidate; from a baseline only where the coarse groups can hold it."""
        inward = self._inward(observation.x)
        fits = self._around is None and np.allclose(self._outward(inward), observation.x, atol=1e-9)
        if observation.proposed or fits:
            self._generations.tell(observation.changed(x=inward))

    def recommend(self) -> FloatArray | None:
        """Return the mean of the distribution, (dimension,); None before the first update."""
        mean = self._generations.mean
        return None if mean is None else self._outward(mean)

    def _outward(self, inner: FloatArray) -> FloatArray:
        spread: FloatArray = inner[self._groups]
        return spread if self._around is None else np.clip(self._around + spread - 0.5, 0.0, 1.0)

    def _inward(self, x: FloatArray) -> FloatArray:
        if self._around is None:
            return x[self._first]
        moved = np.bincount(self._groups, weights=x - self._around) / np.bincount(self._groups)
        return np.clip(moved + 0.5, 0.0, 1.0)


def _blind(measures: Measures) -> list[str]:
    """Return the names of the tasks that count and have no loss."""
    return [task.name for task in measures.tasks if task.no_loss is not None and task.share > 0]
