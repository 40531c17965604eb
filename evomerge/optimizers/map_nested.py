"""Nested MAP (Li et al., 2024): many models, merged two at a time. https://arxiv.org/abs/2406.07529.

Notation: a node is a model or a merge of models, with coefficients x (dimension,); a pair's square holds the points
u * x_first + v * x_second with u and v in [0, 1].
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import combinations
from typing import ClassVar

import numpy as np

from evomerge.optimizers._quasi_random import sobol_point
from evomerge.optimizers._surrogates import fit
from evomerge.optimizers._threads import one_thread
from evomerge.optimizers.base import FloatArray, Observation, Optimizer, OptimizerError, Proposal

#: Measured points required to fit a pair's surrogate: a quadratic in two coefficients already has six of its own.
_FEWEST = 7
#: Grid of a pair's square on which its surrogate is minimized, (n, 2).
_GRID = np.stack(np.meshgrid(*[np.linspace(0.0, 1.0, 51)] * 2, indexing="ij"), axis=-1).reshape(-1, 2)


@dataclass(frozen=True, eq=False)
class _Node:
    """models: indices of its coordinates. seen: its own trial."""

    models: tuple[int, ...]
    seen: Observation


class MapNested(Optimizer):
    """Merges the two models with the most similar scores, replaces them by the result, and repeats until one is left.

    Every model is scored alone first. The pair with the closest losses (Euclidean distance, so all tasks should have
    the same unit) is merged with two coefficients: a quadratic of each loss, fitted to `points` points of their square
    (both models, and the base if it was scored, among them), gives the point with the smallest expected mean loss under
    the preference. That point is scored and represents both models from then on, even if a measured one was better; the
    best measured one is used only if the point or too many others failed. K models take K + (K - 1)(points - 1) trials,
    K fewer if all were scored before; at 20 points that is fewer than the coefficients of a full quadratic,
    (K + 1)(K + 2) / 2, from 36 models on. A run serves one preference. While a pair is being evaluated, idle workers
    evaluate the pairs that would be next; those points are wasted if the order changes. The search ends by itself.
    Requires one coordinate per model from 0 to 1: {kind: uniform, ranges: {weight: [0, 1]}}.

    Args:
        points: Points evaluated per pair, at least 8.
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
        #: Minima of the surrogates, (2,) each, by the data they were fitted to; a cache.
        self._minima: dict[tuple[object, ...], FloatArray] = {}

    @one_thread
    def wants(self, pending: Mapping[int, FloatArray]) -> bool:
        """Return whether the tree needs a point that is neither told nor pending."""
        return bool(self._missing(pending))

    def _ask(self, number: int, pending: Mapping[int, FloatArray]) -> Proposal:
        missing = self._missing(pending)
        return Proposal(missing[0] if missing else self._rng(number).random(self.dimension))

    def _tell(self, observation: Observation) -> None:
        key = self.key(observation.x)
        if key not in self._by_point or self._by_point[key].losses is None:
            self._by_point[key] = observation

    def _missing(self, pending: Mapping[int, FloatArray]) -> list[FloatArray]:
        """Return the points to evaluate, the most urgent first."""
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
        """Return the points needed by the pairs among `nodes`, the closest pair first."""
        found: list[FloatArray] = []
        while len(nodes) > 1:
            pair = _closest(nodes)
            found += self._merge(*pair, busy)[1]
            nodes = [node for node in nodes if node not in pair]
        return found

    def _merge(self, first: _Node, second: _Node, busy: Set[bytes]) -> tuple[_Node | None, list[FloatArray]]:
        """Return the node that a pair becomes, or None and its missing points."""
        square = self._square(first, second)
        corners = np.stack([first.seen.x, second.seen.x])
        if not all(self.key(uv @ corners) in self._by_point for uv in square):
            return None, self._untold([uv @ corners for uv in square], busy)
        known = [(np.array([1.0, 0.0]), first.seen), (np.array([0.0, 1.0]), second.seen)]
        known += [(uv, self._by_point[self.key(uv @ corners)]) for uv in square]
        base = self._by_point.get(self.key(np.zeros(self.dimension)))
        if base is not None:
            known.append((np.zeros(2), base))
        rows = [seen.changed(x=uv) for uv, seen in known if seen.losses is not None]
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
        """Return the points of a pair's square that are evaluated for it, (2,) each."""
        # A distinct number for each pair of sets of models, to key its scrambling.
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
    """Return the two nodes with the closest losses; the first of equal pairs."""

    def distance(pair: tuple[_Node, _Node]) -> float:
        first, second = (np.asarray(node.seen.losses) for node in pair)
        return float(np.linalg.norm(first - second))

    return min(combinations(nodes, 2), key=distance)
