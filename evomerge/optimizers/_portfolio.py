"""Rising bandits (Li et al., 2020): one optimizer for each merge method, and fewer of them as the search goes on.

https://arxiv.org/abs/2012.04371. Every method is searched by an optimizer of its own, in turn. With y the best value
of a method so far and w its mean gain over the last C candidates, the method is set aside when y + w (T - t) is no more
than another's y. The paper knows the budget T. Here a proposal may depend on the told history only, and a budget may
be hours, or raised later: T - t is taken to be t, as many candidates again as there were. So a method that still gains
slowly can come back in a long search.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import ClassVar

import numpy as np

from evomerge import plugins
from evomerge.optimizers.base import (
    Exhausted,
    FloatArray,
    Measures,
    Observation,
    Optimizer,
    OptimizerError,
    Positions,
    Prediction,
    Proposal,
)
from evomerge.plugins import PluginSpec
from evomerge.statistics import pareto

#: Evaluations over which a gain is measured, C; before that a method is not set aside.
WINDOW = 16.0
#: Builds an optimizer from its number of coordinates and its start, (dimension,).
Build = Callable[[int, FloatArray], Optimizer]


def check_inner(spec: PluginSpec) -> type[Optimizer]:
    """Return the class of the optimizer that searches each method.

    Raises:
        OptimizerError: It cannot search one method among several.
    """
    kind: type[Optimizer] = plugins.load("optimizer", spec.kind, Optimizer)
    reason = None
    if kind.uses_parts and not kind.follows_gradients:
        reason = "divides the budget among candidates by itself"
    elif kind.one_coordinate_per_model:
        reason = "chooses among models"
    if reason is not None:
        raise OptimizerError(
            f"{spec.kind} {reason}, which leaves no room for a choice of the method. Use auto, or an optimizer of "
            "whole candidates such as cma_es, tpe or nsga2; or search one method."
        )
    return kind


@dataclass(eq=False)
class _Arm:
    """A method: its optimizer, its coordinates, and what was told of it.

    known: losses of baselines. found: cost in evaluations and losses of each proposal, None for a failure and a part.
    """

    name: str
    optimizer: Optimizer
    part: slice
    known: list[FloatArray] = field(default_factory=list)
    found: list[tuple[float, FloatArray | None]] = field(default_factory=list)
    spent: float = 0.0
    last: int = -1
    is_aside: bool = False
    n_decisions: int = 0

    def losses(self, without: float = 0.0) -> list[FloatArray]:
        """Return all losses but those of the last `without` evaluations."""
        kept, left = [], self.spent - without
        for cost, losses in self.found:
            left -= cost
            if left < -1e-9:
                break
            kept.append(losses)
        return [*self.known, *(losses for losses in kept if losses is not None)]


class Portfolio(Optimizer):
    """Searches several merge methods side by side, and drops those that fall behind.

    A point's first coordinate picks the method, see `MergeSpace`; each method's optimizer sees its own coordinates. The
    value of a method is its lowest loss, or the hypervolume of its front up to the worst baselines.

    Args:
        methods: Name of a method -> its number of coordinates.
        n_objectives: Number of losses per observation.
        seed: Key of all random draws.
        start: The coordinate that picks the method, then the start of every method, (dimension,).
        build: Builds the optimizer of a method.
        window: Evaluations over which a gain is measured.
    """

    max_objectives: ClassVar[int | None] = None
    redraws: ClassVar[int] = 0

    def __init__(
        self,
        methods: Mapping[str, int],
        n_objectives: int,
        seed: int,
        start: FloatArray | None = None,
        *,
        build: Build,
        window: float = WINDOW,
    ) -> None:
        super().__init__(1 + sum(methods.values()), n_objectives, seed, start)
        self._window = window
        self._decisions: list[str] = []
        self._baselines: list[FloatArray] = []
        self._arms: list[_Arm] = []
        begin = 1
        for name, size in methods.items():
            part = slice(begin, begin + size)
            self._arms.append(_Arm(name, build(size, self.start[part]), part))
            begin += size

    def identify(self, key: Callable[[FloatArray], bytes]) -> None:
        """Define which points are the same candidate."""
        super().identify(key)
        for number, arm in enumerate(self._arms):
            arm.optimizer.identify(partial(self._key_within, number))

    def inform(self, measures: Measures) -> None:
        """Learn which measurements the search offers, each method for its own coordinates."""
        super().inform(measures)
        for arm in self._arms:
            positions = None
            if measures.positions is not None:
                series = measures.positions.series[arm.part]
                positions = Positions(series - series.min(), measures.positions.depths[arm.part])
            coarse = None if measures.coarse is None else measures.coarse[arm.part]
            no_gradient = measures.by_method.get(arm.name, measures.no_gradient)
            arm.optimizer.inform(
                replace(measures, coarse=coarse, positions=positions, no_gradient=no_gradient, by_method={})
            )
            self._collect_decisions(arm)

    def expect(self, n_workers: int) -> None:
        """Pass the number of workers on to every method's optimizer."""
        super().expect(n_workers)
        for arm in self._arms:
            arm.optimizer.expect(n_workers)

    def prefer(self, weights: Sequence[float]) -> None:
        """Set the relative weight of each objective."""
        super().prefer(weights)
        for arm in self._arms:
            arm.optimizer.prefer(weights)

    def limit(self, losses: Sequence[float]) -> None:
        """Set upper bounds on the losses of an acceptable point."""
        super().limit(losses)
        for arm in self._arms:
            arm.optimizer.limit(losses)

    def wants(self, pending: Mapping[int, FloatArray]) -> bool:
        """Return whether the optimizer of a method that is not set aside wants another trial."""
        return any(arm.optimizer.wants(self._within(arm, pending)) for arm in self._arms if not arm.is_aside)

    def decisions(self) -> tuple[str, ...]:
        """Return which methods were set aside, and why, and the decisions of their optimizers."""
        return tuple(self._decisions)

    def recommend(self) -> FloatArray | None:
        """Return the point that the optimizer of the leading method recommends."""
        number = self._leader
        inner = self._arms[number].optimizer.recommend()
        return None if inner is None else self._embed(number, inner)

    def predictions(self) -> tuple[Prediction, ...]:
        """Return the predicted Pareto front over all methods."""
        found = [
            replace(each, x=self._embed(number, each.x))
            for number, arm in enumerate(self._arms)
            for each in arm.optimizer.predictions()
        ]
        if not found:
            return ()
        kept = pareto.non_dominated(np.stack([each.losses for each in found]))
        return tuple(each for each, keep in zip(found, kept, strict=True) if keep)

    def why_no_predictions(self) -> str | None:
        """Return why the leading method has no predicted front."""
        return self._arms[self._leader].optimizer.why_no_predictions()

    def _ask(self, number: int, pending: Mapping[int, FloatArray]) -> Proposal:
        exhausted: Exhausted | None = None
        for k in self._in_turn(pending):
            arm = self._arms[k]
            try:
                proposal = arm.optimizer.ask(number, self._within(arm, pending))
            except Exhausted as error:
                exhausted = error
                continue
            return replace(proposal, x=self._embed(k, proposal.x))
        raise exhausted or Exhausted("No method is left to search.")

    def _tell(self, observation: Observation) -> None:
        arm = self._arms[self._number_at(observation.x)]
        arm.optimizer.tell(observation.changed(x=observation.x[arm.part]))
        # A candidate that was dropped on some of the examples has an estimate, which would look like a gain.
        losses = observation.losses if observation.share == 1.0 else None
        if observation.proposed:
            self._count(arm, observation, losses)
        elif losses is not None:
            arm.known.append(losses)
            self._baselines.append(losses)
        self._collect_decisions(arm)
        self._set_aside()

    def _tell_part(self, observation: Observation) -> None:
        arm = self._arms[self._number_at(observation.x)]
        gradient = None if observation.gradient is None else observation.gradient[arm.part]
        arm.optimizer.tell(observation.changed(x=observation.x[arm.part], gradient=gradient))
        self._count(arm, observation, None)
        self._collect_decisions(arm)
        self._set_aside()

    def _count(self, arm: _Arm, observation: Observation, losses: FloatArray | None) -> None:
        arm.found.append((observation.share, losses))
        arm.spent += observation.share
        arm.last = max(arm.last, observation.number)

    def _collect_decisions(self, arm: _Arm) -> None:
        made = arm.optimizer.decisions()
        self._decisions += [f"{arm.name}: {text}" for text in made[arm.n_decisions :]]
        arm.n_decisions = len(made)

    def _in_turn(self, pending: Mapping[int, FloatArray]) -> list[int]:
        """Return the methods in the order in which they may propose: longest ago first, those set aside last."""
        last = [arm.last for arm in self._arms]
        for number, x in pending.items():
            k = self._number_at(x)
            last[k] = max(last[k], number)
        wanting = [not arm.is_aside and arm.optimizer.wants(self._within(arm, pending)) for arm in self._arms]
        return sorted(range(len(self._arms)), key=lambda k: (not wanting[k], last[k], k))

    def _set_aside(self) -> None:
        """Compare what each method has reached with what the others would reach at their present gain."""
        reached = [self._value(arm.losses()) for arm in self._arms]
        leader = reached.index(max(reached))
        ahead = sum(arm.spent for arm in self._arms)
        for number, arm in enumerate(self._arms):
            if number == leader or arm.spent < self._window:
                aside, gain = False, 0.0
            else:
                gain = reached[number] - self._value(arm.losses(self._window)) if reached[number] > -math.inf else 0.0
                aside = reached[number] + gain / self._window * ahead <= reached[leader]
            if aside != arm.is_aside:
                arm.is_aside = aside
                self._decisions.append(self._reason(arm, leader, reached[leader] - reached[number], gain))

    def _reason(self, arm: _Arm, leader: int, behind: float, gain: float) -> str:
        if not arm.is_aside:
            return f"{arm.name} is searched again: at its last gain it may catch up in as many evaluations again"
        named = f"{behind:.3g} behind {self._arms[leader].name}, and gained {gain:.3g} with its last {self._window:g}"
        figures = f"it is {named}" if math.isfinite(behind) else "none of its candidates has a score"
        return f"{arm.name} is set aside after {arm.spent:.3g} evaluations: {figures}"

    @property
    def _leader(self) -> int:
        values = [self._value(arm.losses()) for arm in self._arms]
        return values.index(max(values))

    def _value(self, losses: Sequence[FloatArray]) -> float:
        """Return what some losses of a method are worth, larger is better; -inf for none."""
        if not losses:
            return -math.inf
        found = np.stack(losses)
        if self.n_objectives == 1:
            return -float(found.min())
        told = self._baselines or [each for arm in self._arms for each in arm.losses()]
        return pareto.hypervolume(found, np.max(told, axis=0))

    def _number_at(self, x: FloatArray) -> int:
        return min(int(x[0] * len(self._arms)), len(self._arms) - 1)

    def _within(self, arm: _Arm, pending: Mapping[int, FloatArray]) -> dict[int, FloatArray]:
        return {number: x[arm.part] for number, x in pending.items() if self._arms[self._number_at(x)] is arm}

    def _embed(self, number: int, inner: FloatArray) -> FloatArray:
        x = self.start.copy()
        x[0] = (number + 0.5) / len(self._arms)
        x[self._arms[number].part] = inner
        return x

    def _key_within(self, number: int, inner: FloatArray) -> bytes:
        return self.key(self._embed(number, inner))


class GradientPortfolio(Portfolio):
    """A portfolio whose optimizers follow gradients where their method has some."""

    uses_parts: ClassVar[bool] = True
    follows_gradients: ClassVar[bool] = True
