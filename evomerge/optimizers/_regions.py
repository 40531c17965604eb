"""Regions in which a predicted front is solved: the cube for few coordinates; ties, then neighborhoods, for many.

A surrogate of many coordinates knows little of most of the cube. First each series (see `Positions`) moves as a whole,
as in a uniform space; then all coordinates are free, within a short way of the points of the measured front.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from evomerge.optimizers._front_solver import Model, Near, solve
from evomerge.optimizers._quasi_random import sobol_points
from evomerge.optimizers.base import FloatArray, Positions
from evomerge.statistics import pareto

#: Points off the predicted front that also compete to be measured next; a power of two.
_N_ELSEWHERE = 64
#: Points near the measured front to start from, and to compete to be measured next.
_N_STARTS, _N_NEIGHBORS = 256, 128
#: Largest change of a coordinate in each of the solver's two rounds, and steps of a round.
_REACH, _STEPS = 0.15, 25


class Region(Protocol):
    """Where to look; x (n_points, dimension) and losses (n_points, n_objectives) are the measurements."""

    def solve(
        self,
        model: Model,
        x: FloatArray,
        losses: FloatArray,
        *,
        seed: int,
        preference: FloatArray,
        limits: FloatArray,
        n_weights: int,
    ) -> FloatArray:
        """Return non-dominated points (n, dimension) under `model`; see `_front_solver.solve`."""
        ...

    def elsewhere(self, x: FloatArray, losses: FloatArray, key: int) -> FloatArray:
        """Return other points worth measuring, (n, dimension)."""
        ...


@dataclass(frozen=True, eq=False)
class Whole:
    """The whole cube."""

    def solve(
        self,
        model: Model,
        x: FloatArray,
        losses: FloatArray,  # noqa: ARG002 - protocol
        *,
        seed: int,
        preference: FloatArray,
        limits: FloatArray,
        n_weights: int,
    ) -> FloatArray:
        """Return non-dominated points of the cube."""
        return solve(model, x, seed, preference, limits, n_weights)

    def elsewhere(self, x: FloatArray, losses: FloatArray, key: int) -> FloatArray:  # noqa: ARG002 - protocol
        """Return points that fill the cube."""
        return sobol_points(x.shape[1], key, _N_ELSEWHERE)


@dataclass(frozen=True, eq=False)
class Tied:
    """One value per series."""

    positions: Positions

    def solve(
        self,
        model: Model,
        x: FloatArray,
        losses: FloatArray,  # noqa: ARG002 - protocol
        *,
        seed: int,
        preference: FloatArray,
        limits: FloatArray,
        n_weights: int,
    ) -> FloatArray:
        """Return non-dominated points among those with one value per series."""
        spread = one_hot(self.positions)

        def tied(z: FloatArray) -> tuple[FloatArray, FloatArray]:
            values, slopes = model(z @ spread)
            return values, slopes @ spread.T

        known = x @ spread.T / spread.sum(axis=1)
        return solve(tied, known, seed, preference, limits, n_weights) @ spread

    def elsewhere(self, x: FloatArray, losses: FloatArray, key: int) -> FloatArray:  # noqa: ARG002 - protocol
        """Return points that fill the cube of the series' values."""
        return sobol_points(self.positions.n_series, key, _N_ELSEWHERE) @ one_hot(self.positions)


@dataclass(frozen=True, eq=False)
class Neighborhood:
    """Near the points of the measured front."""

    positions: Positions

    def solve(
        self,
        model: Model,
        x: FloatArray,
        losses: FloatArray,
        *,
        seed: int,
        preference: FloatArray,
        limits: FloatArray,
        n_weights: int,
    ) -> FloatArray:
        """Return points that are not dominated near those that were measured to be."""
        front = x[pareto.non_dominated(losses)]
        near = Near(neighbors(front, self.positions, seed, _N_STARTS), _REACH, _STEPS)
        return solve(model, front, seed, preference, limits, n_weights, near)

    def elsewhere(self, x: FloatArray, losses: FloatArray, key: int) -> FloatArray:
        """Return variations of the points of the measured front."""
        return neighbors(x[pareto.non_dominated(losses)], self.positions, key, _N_NEIGHBORS)


def one_hot(positions: Positions) -> FloatArray:
    """Return 1 where a coordinate belongs to a series, else 0: (n_series, dimension)."""
    return np.asarray(np.arange(positions.n_series)[:, None] == positions.series[None, :], dtype=np.float64)


def neighbors(front: FloatArray, positions: Positions, key: int, n: int) -> FloatArray:
    """Return variations (n, dimension) of points (n_front, dimension): crossed with each other, and with steps that
    are alike at neighboring depths or independent."""
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence((key, n))))
    dimension = front.shape[1]
    points = front[rng.integers(len(front), size=n)]
    others = front[rng.integers(len(front), size=n)]
    crossed = rng.random((n, 1)) < 0.5
    share = rng.random((n, 1)) * (rng.random((n, dimension)) < rng.random((n, 1)))
    points = np.where(crossed, points + share * (others - points), points)
    reach = np.exp(rng.uniform(np.log(0.1), np.log(3.0), size=n))
    smooth = _smooth(rng, positions, reach)
    rough = rng.standard_normal((n, dimension)) * (rng.random((n, dimension)) < rng.uniform(0.05, 1.0, size=(n, 1)))
    size = np.exp(rng.uniform(np.log(0.02), np.log(0.2), size=(n, 1)))
    steps = np.where(rng.random((n, 1)) < 0.5, smooth, rough)
    return np.asarray(np.clip(points + size * steps, 0.0, 1.0))


def _smooth(rng: np.random.Generator, positions: Positions, reach: FloatArray) -> FloatArray:
    """Return steps that are waves along the depth of each series, (n, dimension); reach: (n,)."""
    n, n_series = len(reach), positions.n_series
    phase = rng.uniform(0.0, 2.0 * np.pi, size=(n, n_series))[:, positions.series]
    height = rng.standard_normal((n, n_series))[:, positions.series]
    return np.asarray(height * np.sqrt(2.0) * np.cos(positions.depths / reach[:, None] + phase))
