"""MAP (Li et al., 2024) as released by its authors, for comparison. https://arxiv.org/abs/2406.07529.

Notation: K coefficients, p = (K + 1)(K + 2) / 2 parameters per task, n = 2 p points of the design.
"""

import importlib.util
from collections.abc import Mapping, Set
from typing import ClassVar

import numpy as np

from evomerge.optimizers._released_map import Front, design, solve
from evomerge.optimizers._threads import one_thread
from evomerge.optimizers.base import FloatArray, Observation, Optimizer, OptimizerError, Prediction, Proposal

#: Beyond this dimension the full grid of 2^K points, from which the design is drawn, is too large.
_MOST = 16


class MapReleased(Optimizer):
    """Quadratic surrogates from one design, and their front, without the repairs made in `map`.

    The design consists of the K one-hots and a random selection from a full grid; points told already (parents in a
    space with one weight per model) are not evaluated again, and a failed one is replaced by the next grid point. Then
    sigmoid(quadratic) is fitted to every task whose losses lie in [-1, 0] (accuracies), softplus(quadratic) to
    non-negative losses, and the bare quadratic to all others, by Levenberg-Marquardt from all ones; pymoo's NSGA-III
    solves over [-3, 3]^K. Known defects are kept: the fit stalls from all ones, the design is deficient for many K, and
    the front lies outside the sampled region and is too optimistic.

    The cube ends at 0 and 1, so points of the front are clipped to it, and `predictions` pairs the clipped points with
    the losses predicted for the unclipped ones. They are then evaluated, the recommended one first (the largest inner
    product of predicted metrics and preference), each next one as far as possible from the previous ones, until the
    budget or the front is exhausted. While the last points of the design are being evaluated, it asks for nothing else.

    The published box has coefficients from 0 to 1: {kind: uniform, ranges: {weight: [0, 1]}}; in other ranges a one-hot
    point is not a model. Two or more objectives; 2 to 16 coordinates (fitting and solving take 1 s for up to 8
    coordinates and half a minute for 16). Requires pymoo: pip install 'evomerge[pymoo]'.
    """

    min_objectives: ClassVar[int] = 2
    max_objectives: ClassVar[int | None] = None

    def __init__(self, dimension: int, n_objectives: int, seed: int, start: FloatArray | None = None) -> None:
        super().__init__(dimension, n_objectives, seed, start)
        if not 2 <= dimension <= _MOST:
            raise OptimizerError(
                f"map_released supports 2 to {_MOST} coefficients, since its design is drawn from a full grid; there "
                f"are {dimension}. Search fewer (space: uniform), or use `map`."
            )
        if importlib.util.find_spec("pymoo") is None:
            raise OptimizerError("map_released requires pymoo, which is not installed: pip install 'evomerge[pymoo]'.")
        self._n_parameters = (dimension + 1) * (dimension + 2) // 2
        self._design = design(dimension, 2 * self._n_parameters, self._rng(0))
        self._by_point: dict[bytes, Observation] = {}
        #: The last front and the trials it was fitted to; a cache.
        self._solved: tuple[tuple[int, ...], Front] | None = None

    @one_thread
    def wants(self, pending: Mapping[int, FloatArray]) -> bool:
        """Return whether a point of the design or the front is neither told nor pending."""
        return self._next(pending) is not None

    @one_thread
    def predictions(self) -> tuple[Prediction, ...]:
        """Return the predicted front; errors are the residual standard deviation of each fit."""
        front = self._front()
        if front is None:
            return ()
        return tuple(
            Prediction(np.clip(x, 0.0, 1.0), losses, front.errors)
            for x, losses in zip(front.x, front.losses, strict=True)
        )

    def why_no_predictions(self) -> str:
        """Return how much of the design is missing."""
        size, measured = 2 * self._n_parameters, len(self._progress(frozenset())[0])
        return f"map_released predicts a front once its design of {size} points is measured; {measured} are"

    @one_thread
    def recommend(self) -> FloatArray | None:
        """Return the front's point for the preference, unless it was measured."""
        front = self._front()
        if front is None:
            return None
        best = front.in_the_cube(self.preference)[0]
        return None if self.key(best) in self._by_point else best

    def _ask(self, number: int, pending: Mapping[int, FloatArray]) -> Proposal:
        x = self._next(pending)
        return Proposal(self._rng(number).random(self.dimension) if x is None else x)

    def _tell(self, observation: Observation) -> None:
        key = self.key(observation.x)
        if key not in self._by_point or self._by_point[key].losses is None:
            self._by_point[key] = observation

    def _next(self, pending: Mapping[int, FloatArray]) -> FloatArray | None:
        busy = {self.key(x) for x in pending.values()}
        missing = self._progress(busy)[1]
        if missing is not None:
            return missing
        front = self._front(busy)
        ahead = [] if front is None else front.in_the_cube(self.preference)
        return next((x for x in ahead if self.key(x) not in self._by_point and self.key(x) not in busy), None)

    def _progress(self, busy: Set[bytes]) -> tuple[list[Observation], FloatArray | None, int]:
        """Return the design's successful observations, its next point if needed, and the number of pending ones."""
        rows: list[Observation] = []
        waiting = 0
        for x in self._design:
            if len(rows) + waiting == 2 * self._n_parameters:
                break
            seen = self._by_point.get(self.key(x))
            if seen is not None and seen.losses is not None:
                rows.append(seen)
            elif seen is None and self.key(x) in busy:
                waiting += 1
            elif seen is None:
                return rows, x, waiting
        return rows, None, waiting

    def _front(self, busy: Set[bytes] = frozenset()) -> Front | None:
        """Return the predicted front; None until the design is told, or if too many of its points failed."""
        rows, missing, waiting = self._progress(busy)
        if missing is not None or waiting or len(rows) < self._n_parameters:
            return None
        key = tuple(row.number for row in rows)
        if self._solved is None or self._solved[0] != key:
            self._solved = key, solve(rows, self._seed32(0))
        return self._solved[1]
