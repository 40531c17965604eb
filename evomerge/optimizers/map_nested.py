"""Nested MAP (Li et al., 2024): many models, merged two at a time. https://arxiv.org/abs/2406.07529.

Notation: a node is a model or a merge of models, with coefficients x (dimension,); a pair's square holds the points
u * x_first + v * x_second with u and v in [0, 1].
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from itertools import combinations
from typing import ClassVar

import numpy as np

from evomerge.optimizers._quasi_random import sobol_point
from evomerge.optimizers._surrogates import fit
from evomerge.optimizers.base import FloatArray, Observation, Optimizer, OptimizerError, Proposal

#: Measured points below which a pair gets no surrogate: a quadratic of two coefficients has six of its own.
_FEWEST = 7
#: Where a pair's surrogate is minimised: a grid of its square, (n, 2).
_GRID = np.stack(np.meshgrid(*[np.linspace(0.0, 1.0, 51)] * 2, indexing="ij"), axis=-1).reshape(-1, 2)


@dataclass(frozen=True, eq=False)
class _Node:
    """models: which coordinates it has. seen: its own trial."""

    models: tuple[int, ...]
    seen: Observation


class MapNested(Optimizer):
    """Merges the two models that score most alike, then goes on with the result in their place, until one is left.

    Every model is scored by itself first. The pair whose losses are closest (Euclidean, so all tasks should have the
    same unit) is merged by two coefficients: a quadratic of each loss, fitted to `points` points of their square (both
    models among them, and the base where it was told), gives the point with the least expected mean loss under the
    preference, which is scored and stands for both from then on. The point is taken as it comes, also where one of
    those before was better; where it fails, or too much before it did, the best of those is taken. K models
    take K + (K - 1)(points - 1) trials, and K fewer where all of them were told already; with 20 points that is less
    than a full quadratic has coefficients, (K + 1)(K + 2) / 2, from 36 models on. One run serves one preference.

    While a pair is being evaluated it goes on with the pairs that would come next as things stand; where these turn out
    not to be merged their points were in vain. At the end it wants no more. For spaces with one coordinate per model
    that goes from 0 to 1: {kind: uniform, ranges: {weight: [0, 1]}}.
    """

    max_objectives: ClassVar[int | None] = None
    one_coordinate_per_model: ClassVar[bool] = True

    def __init__(
        self, dimension: int, n_objectives: int, seed: int, start: FloatArray | None = None, *, points: int = 20
    ) -> None:
        super().__init__(dimension, n_objectives, seed, start)
        if points < _FEWEST + 1:
            raise OptimizerError(f"points must be at least {_FEWEST + 1}; it is {points}.")
        self._points = points
        self._by_point: dict[bytes, Observation] = {}
        #: Minima of the surrogates by what these were fitted to, (2,) each; a memo.
        self._minima: dict[tuple[object, ...], FloatArray] = {}

    def wants(self, pending: Mapping[int, FloatArray]) -> bool:
        """Whether there is a point that the tree needs and that is neither told nor being evaluated."""
        return bool(self._missing(pending))

    def _ask(self, number: int, pending: Mapping[int, FloatArray]) -> Proposal:
        missing = self._missing(pending)
        return Proposal(missing[0] if missing else self._rng(number).random(self.dimension))

    def _tell(self, observation: Observation) -> None:
        key = self.key(observation.x)
        if key not in self._by_point or self._by_point[key].losses is None:
            self._by_point[key] = observation

    def _missing(self, pending: Mapping[int, FloatArray]) -> list[FloatArray]:
        """Points to evaluate, the most urgent first."""
        busy = {self.key(x) for x in pending.values()}
        models = list(np.eye(self.dimension))
        if not all(self.key(x) in self._by_point for x in models):
            return self._untold(models, busy)
        alone = [_Node((index,), self._by_point[self.key(x)]) for index, x in enumerate(models)]
        nodes = [node for node in alone if node.seen.losses is not None]
        while len(nodes) > 1:
            first, second = _closest(nodes)
            merged, missing = self._merge(first, second, busy)
            nodes = [node for node in nodes if node not in (first, second)]
            if merged is None:
                return missing + self._ahead(nodes, busy)
            nodes.append(merged)
        return []

    def _ahead(self, nodes: Sequence[_Node], busy: Set[bytes]) -> list[FloatArray]:
        """What the pairs among `nodes` would need, the closest first."""
        found: list[FloatArray] = []
        while len(nodes) > 1:
            pair = _closest(nodes)
            found += self._merge(*pair, busy)[1]
            nodes = [node for node in nodes if node not in pair]
        return found

    def _merge(self, first: _Node, second: _Node, busy: Set[bytes]) -> tuple[_Node | None, list[FloatArray]]:
        """The node that a pair becomes, or None and the points that are missing for it."""
        square = self._square(first, second)
        corners = np.stack([first.seen.x, second.seen.x])
        if not all(self.key(uv @ corners) in self._by_point for uv in square):
            return None, self._untold([uv @ corners for uv in square], busy)
        known = [(np.array([1.0, 0.0]), first.seen), (np.array([0.0, 1.0]), second.seen)]
        known += [(uv, self._by_point[self.key(uv @ corners)]) for uv in square]
        base = self._by_point.get(self.key(np.zeros(self.dimension)))
        if base is not None:
            known.append((np.zeros(2), base))
        rows = [replace(seen, x=uv) for uv, seen in known if seen.losses is not None]
        best = min((seen for _, seen in known if seen.losses is not None), key=self._preferred)
        models = first.models + second.models
        if len(rows) < _FEWEST:
            return _Node(models, best), []
        x = self._minimum(models, rows) @ corners
        seen = self._by_point.get(self.key(x))
        if seen is None:
            return None, self._untold([x], busy)
        return _Node(models, best if seen.losses is None else seen), []

    def _square(self, first: _Node, second: _Node) -> list[FloatArray]:
        """The points of a pair's square that are evaluated for it, (2,) each."""
        # A number for each pair of sets of models, for its own scrambling.
        code = sum(3**model for model in first.models) + 2 * sum(3**model for model in second.models)
        return [sobol_point(2, self._seed32(code), index) for index in range(self._points - 2)]

    def _minimum(self, models: tuple[int, ...], rows: Sequence[Observation]) -> FloatArray:
        key = (models, self.preference.tobytes(), tuple(row.number for row in rows))
        if key not in self._minima:
            expected = fit(rows, self.n_objectives, "quadratic").predict(_GRID)[0]
            self._minima[key] = _GRID[int((expected @ self.preference).argmin())]
        return self._minima[key]

    def _preferred(self, seen: Observation) -> float:
        return np.inf if seen.losses is None else float(seen.losses @ self.preference)

    def _untold(self, points: Sequence[FloatArray], busy: Set[bytes]) -> list[FloatArray]:
        return [x for x in points if self.key(x) not in self._by_point and self.key(x) not in busy]


def _closest(nodes: Sequence[_Node]) -> tuple[_Node, _Node]:
    """The two nodes with the smallest distance between their losses; of equal ones the first."""

    def distance(pair: tuple[_Node, _Node]) -> float:
        first, second = (np.asarray(node.seen.losses) for node in pair)
        return float(np.linalg.norm(first - second))

    return min(combinations(nodes, 2), key=distance)
