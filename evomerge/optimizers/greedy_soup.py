"""Greedy soup (Wortsman et al., 2022): average in each model that lowers the loss. https://arxiv.org/abs/2203.05482."""

from collections import deque
from collections.abc import Iterator, Mapping
from typing import ClassVar

import numpy as np

from evomerge.optimizers.base import FloatArray, Observation, Optimizer, Proposal

Members = frozenset[int]


class GreedySoup(Optimizer):
    """Scores every model alone, then adds them to the average from best to worst, keeping each that helps.

    Use it with `method: linear` in the space `uniform`: a coordinate is a model's weight, 1 for a member of the soup
    and 0 for the others. Models that were scored already, as the baselines are, are not scored again: n of them then
    take at most n - 1 trials. Several workers take more, since idle ones evaluate the next average for either result of
    a pending trial. The search then ends; further requests get random weights.

    Args:
        strict: Whether a model must lower the loss to stay; if false, an equal loss suffices.
    """

    one_coordinate_per_model: ClassVar[bool] = True

    def __init__(
        self,
        dimension: int,
        n_objectives: int,
        seed: int,
        start: FloatArray | None = None,
        *,
        strict: bool = True,
    ) -> None:
        super().__init__(dimension, n_objectives, seed, start)
        self._strict = strict
        self._order = [int(model) for model in self._rng(0).permutation(dimension)]
        #: Losses of the averages tried; None for failed trials.
        self._losses: dict[Members, float | None] = {}

    def wants(self, pending: Mapping[int, FloatArray]) -> bool:
        """Return whether a relevant average has neither a loss nor a pending trial."""
        return next(self._wanted(_averages(pending)), None) is not None

    def _ask(self, number: int, pending: Mapping[int, FloatArray]) -> Proposal:
        members = next(self._wanted(_averages(pending)), None)
        if members is None:
            return Proposal(self._rng(number).random(self.dimension))
        return Proposal(np.array([float(model in members) for model in range(self.dimension)]))

    def _tell(self, observation: Observation) -> None:
        members = _members(observation.x)
        if members is not None:
            self._losses.setdefault(members, None if observation.losses is None else float(observation.losses[0]))

    def _wanted(self, busy: set[Members]) -> Iterator[Members]:
        """Yield averages to evaluate, the most useful first, except pending ones."""
        for model in self._order:
            alone = frozenset([model])
            if alone not in self._losses and alone not in busy:
                yield alone
        scored = [(loss, model) for model in range(self.dimension) if (loss := self._loss(model)) is not None]
        queue = [model for _, model in sorted(scored)]
        # A soup, its loss (None if unknown), and the number of models considered so far.
        states: deque[tuple[Members, float | None, int]] = deque()
        if queue:
            states.append((frozenset(queue[:1]), self._loss(queue[0]), 1))
        while states:
            soup, loss, turn = states.popleft()
            while turn < len(queue) and loss is not None and (soup | {queue[turn]}) in self._losses:
                soup, loss = self._better(soup, loss, soup | {queue[turn]})
                turn += 1
            if turn < len(queue):
                larger = soup | {queue[turn]}
                if larger not in self._losses and larger not in busy:
                    yield larger
                states.extend([(larger, self._losses.get(larger), turn + 1), (soup, loss, turn + 1)])

    def _loss(self, model: int) -> float | None:
        return self._losses.get(frozenset([model]))

    def _better(self, soup: Members, loss: float, larger: Members) -> tuple[Members, float]:
        new = self._losses[larger]
        accepted = new is not None and (new < loss or (new == loss and not self._strict))
        return (larger, new) if accepted and new is not None else (soup, loss)


def _averages(pending: Mapping[int, FloatArray]) -> set[Members]:
    return {members for x in pending.values() if (members := _members(x)) is not None}


def _members(x: FloatArray) -> Members | None:
    """The models of an average with equal weights; None for any other point."""
    if not x.any() or not np.isin(x, (0.0, 1.0)).all():
        return None
    return frozenset(int(model) for model in np.flatnonzero(x))
