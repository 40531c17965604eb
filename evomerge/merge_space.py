"""MergeSpace: the merges that a search chooses from, as points of one unit cube."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from evomerge.recipe import Merge, Recipe
from evomerge.recipe.paths import merge_along
from search_spaces.base import CoefficientTable, FloatArray, SearchSpace, SpaceError

#: Name of the coordinate that picks the method, where there are several.
METHOD = "method"


class MergeSpace:
    """A recipe and a space of its coefficients, for each merge method that the search chooses from.

    With one method, a point is a point of its space. With n methods the cube is a disjoint union: the first coordinate
    picks the method, the k-th from k / n to (k + 1) / n, and each method has coordinates of its own after it. Those of
    the other methods have no effect; in the points made here they are at the defaults of their spaces.

    Args:
        methods: Name of a method -> its recipe, all of the same models, and its space.

    Example:
        >>> from evomerge.recipe import Input
        >>> from search_spaces.base import Layout, Parameter
        >>> from search_spaces.uniform import Uniform
        >>> layout = Layout.from_names(["model.layers.0.mlp.weight"])
        >>> models = Input("base", "base"), (Input("math", "math"),)
        >>> weight = Uniform(layout, ["math"], [Parameter("weight", 1.0, 0.0, 1.0, per_input=True)])
        >>> scale = Uniform(layout, ["math"], [Parameter("t", 0.5, 0.0, 1.0, per_input=False)])
        >>> space = MergeSpace(
        ...     {"ties": (Recipe(*models, "ties"), weight), "slerp": (Recipe(*models, "slerp"), scale)}
        ... )
        >>> space.names
        ('method', 'ties: weight[all, math]', 'slerp: t[all]')
        >>> space.embed(1, np.array([0.75])).tolist()
        [0.75, 1.0, 0.75]
        >>> space.merge(np.array([0.75, 1.0, 0.25])).recipe.method
        'slerp'
    """

    def __init__(self, methods: Mapping[str, tuple[Recipe, SearchSpace]]) -> None:
        self.methods = tuple(methods)
        self.recipes = tuple(recipe for recipe, _ in methods.values())
        self.spaces = tuple(space for _, space in methods.values())
        self._first = 1 if self.is_portfolio else 0
        ends = self._first + np.cumsum([0, *(space.dimension for space in self.spaces)])
        self._parts = [slice(int(begin), int(end)) for begin, end in pairwise(ends)]
        self.dimension = int(ends[-1])

    @property
    def is_portfolio(self) -> bool:
        """Whether there are several methods to choose from."""
        return len(self.methods) > 1

    @property
    def arranges_blocks(self) -> bool:
        """Whether merges are paths through the blocks of all models."""
        return any(space.arranges_blocks for space in self.spaces)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of coordinates of each method."""
        return tuple(space.dimension for space in self.spaces)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the coordinates; of several methods the methods' come first, `ties: weight[all, math]`."""
        named = [self.prefix(k) + name for k, space in enumerate(self.spaces) for name in space.names]
        return (METHOD, *named) if self.is_portfolio else tuple(named)

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences of the spaces, each once."""
        return tuple(dict.fromkeys(note for space in self.spaces for note in space.notes))

    @property
    def ranges(self) -> dict[str, tuple[float, float]]:
        """(low, high) of each parameter that is searched between two bounds, named as in `names`."""
        return {
            self.prefix(k) + name: bounds
            for k, space in enumerate(self.spaces)
            for name, bounds in space.ranges.items()
        }

    @property
    def coarse(self) -> NDArray[np.int64] | None:
        """Number of the larger group of each coordinate, (dimension,); None if no space has larger groups."""
        if all(space.coarse is None for space in self.spaces):
            return None
        found = [np.arange(s.dimension) if s.coarse is None else s.coarse for s in self.spaces]
        return self._numbered(found)

    @property
    def positions(self) -> tuple[NDArray[np.int64], FloatArray]:
        """Series and depth of each coordinate, (dimension,) each; that of the method is a series of its own."""
        found = [space.positions for space in self.spaces]
        depths = np.concatenate([np.zeros(self._first), *(depths for _, depths in found)])
        return self._numbered([series for series, _ in found]), depths

    def prefix(self, method: int) -> str:
        """Return what the names of a method's parameters begin with, `ties: `; empty for the only method."""
        return f"{self.methods[method]}: " if self.is_portfolio else ""

    def part(self, method: int) -> slice:
        """Return the coordinates of a method."""
        return self._parts[method]

    def method_at(self, x: FloatArray) -> int:
        """Return the number of the method that a point, (dimension,), picks."""
        return picked(x, len(self.methods))

    def default(self, method: int = 0) -> FloatArray:
        """Return the point that the search of a method starts from, (dimension,)."""
        return self.embed(method, self.spaces[method].default())

    def embed(self, method: int, inner: FloatArray) -> FloatArray:
        """Return the point, (dimension,), for a point of a method's own space."""
        if not self.is_portfolio:
            return inner
        parts = [inner if k == method else space.default() for k, space in enumerate(self.spaces)]
        return np.concatenate([[(method + 0.5) / len(self.methods)], *parts])

    def decode(self, x: FloatArray) -> CoefficientTable:
        """Return the coefficients at a point, (dimension,). Raises SpaceError for a point outside the cube."""
        method, inner = self._inner(x)
        return self.spaces[method].decode(inner)

    def key_values(self, x: FloatArray) -> FloatArray:
        """Return values, (n,), that are equal for points, (dimension,), of one method with equal coefficients."""
        method, inner = self._inner(x)
        return self.spaces[method].key_values(inner)

    def merge(self, x: FloatArray, seed: int = 0) -> Merge:
        """Return the merge or path at a point, (dimension,). Raises SpaceError for a point outside the cube."""
        method, table = self.method_at(x), self.decode(x)
        path = self.spaces[method].path(table)
        recipe = self.recipes[method]
        return Merge(recipe, table, seed) if path is None else merge_along(recipe, path, seed)

    def encode(self, table: CoefficientTable, method: int = 0) -> FloatArray:
        """Return the point that decodes to a method's table, (dimension,). Raises SpaceError if there is none."""
        return self.embed(method, self.spaces[method].encode(table))

    def searched(self, x: FloatArray) -> Mapping[str, tuple[str, ...]]:
        """Return the searched groups by parameter, for the method that a point picks."""
        return self.spaces[self.method_at(x)].searched

    def pull_back(self, x: FloatArray, gradient: Mapping[str, FloatArray]) -> FloatArray:
        """Return the gradient by the coordinates, (dimension,), given the gradient by the coefficients at a point."""
        method, inner = self._inner(x)
        found = np.zeros(self.dimension)
        found[self._parts[method]] = self.spaces[method].pull_back(inner, gradient)
        return found

    def elsewhere(self, x: FloatArray, rng: np.random.Generator) -> FloatArray:
        """Return a random point of the method that a point picks."""
        method = self.method_at(x)
        return self.embed(method, rng.random(self.spaces[method].dimension))

    def _inner(self, x: FloatArray) -> tuple[int, FloatArray]:
        point = np.asarray(x, dtype=np.float64)
        if point.shape != (self.dimension,):
            raise SpaceError(f"Expected a point of shape ({self.dimension},); got {point.shape}.")
        if self.is_portfolio and not 0.0 <= point[0] <= 1.0:
            raise SpaceError(f"Coordinates must lie in [0, 1]; {METHOD!r} is {point[0]}.")
        method = self.method_at(point)
        return method, point[self._parts[method]]

    def _numbered(self, found: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
        """Concatenate numbers that count from 0 within each space, and make them distinct."""
        return np.concatenate(list(self._shifted(found)))

    def _shifted(self, found: Sequence[NDArray[np.int64]]) -> Iterator[NDArray[np.int64]]:
        first = self._first
        yield np.zeros(first, dtype=np.int64)
        for numbers in found:
            yield numbers + first
            first += int(numbers.max(initial=-1)) + 1


def picked(x: FloatArray, n_methods: int) -> int:
    """Return the number of the method that a point picks by its first coordinate, of `n_methods`."""
    return min(int(x[0] * n_methods), n_methods - 1) if n_methods > 1 else 0
