"""Proposals of a Gaussian process for many workers: one fit, many draws (Thompson sampling; Kandasamy et al., 2018).
https://arxiv.org/abs/1705.09236

Every proposal is the minimum of another draw from the posterior. Draws differ as much as the posterior is uncertain, so
they need not know of each other, nor of the trials that are pending.
"""

from collections.abc import Callable

import numpy as np

from evomerge.optimizers._history import History, step
from evomerge.optimizers._links import Data, Plain
from evomerge.optimizers._process import Process, fit_process
from evomerge.optimizers._process_draws import Draws, Features
from evomerge.optimizers.base import FloatArray

#: Most results that length scales are fitted to, and that draws are conditioned on: the best and the newest, half each.
_MOST_FITTED, _MOST = 150, 256
#: Least variance of losses.
_LEAST = 1e-12
#: Ratio of the numbers of results of two fits of the length scales.
_GROWTH = 2
#: Distance of a draw from the posterior mean. Full draws differ so much in many coordinates that most improve nothing.
_SPREAD = 0.3
#: Points from which a draw may begin to descend: spread over the cube, and around each of the best known ones.
_SPREAD_POINTS, _NEAR, _BEST = 14, 10, 5
#: Standard deviations around known points, in cube widths, and coordinates that a step changes on average.
_WIDTHS, _MOVED = (0.02, 0.05, 0.1, 0.2), 20.0
#: Keys of draws that are no trial's.
_OF_FIT = 1 << 40


class ManyDraws:
    """The minima of draws from a process that is fitted to the first results, for blocks of consecutive trials at once.

    Args:
        history: Results, to which more are added.
        dimension: Number of coordinates.
        rng: Returns the generator of a number.
        least: Fewest results to fit to.
    """

    def __init__(self, history: History, dimension: int, rng: Callable[[int], np.random.Generator], least: int) -> None:
        self._history, self._dimension, self._rng, self._least = history, dimension, rng, least
        self._shape: tuple[int, Process] | None = None
        self._fitted: tuple[int, Process, Features, FloatArray] | None = None
        self._blocks: dict[tuple[int, int, int], FloatArray] = {}

    def ask(self, number: int, n_running: int) -> FloatArray:
        """Return the point of a trial, (dimension,)."""
        size = step(n_running, len(self._history))
        n_told = max(len(self._history) // size * size, self._least)
        key = n_told, size, number // size
        if key not in self._blocks:
            if self._blocks and next(iter(self._blocks))[0] != n_told:
                self._blocks.clear()
            self._blocks[key] = self._minima(n_told, range(key[2] * size, (key[2] + 1) * size))
        return np.asarray(self._blocks[key][number % size])

    def _minima(self, n_told: int, numbers: range) -> FloatArray:
        """Return the minima of the draws of consecutive trials, (n_numbers, dimension)."""
        process, features, pool = self._conditioned(n_told)
        draws = Draws.of(process, features, [self._rng(number) for number in numbers], _SPREAD)
        return draws.descended(pool[np.argmin(draws.values(pool), axis=1)])

    def _conditioned(self, n_told: int) -> tuple[Process, Features, FloatArray]:
        """Return the process given the first results, features, and points to begin with."""
        if self._fitted is None or self._fitted[0] != n_told:
            shape, data = self._fit(n_told), self._data(n_told, _MOST)
            scale = float(data.noise[0] / max(np.var(shape.responses), _LEAST))
            noise = np.full(len(data.x), scale * shape.noise[0])
            process = Process.given(shape.kernel.scaled(scale), data.x, data.latents, noise)
            rng = self._rng(_OF_FIT + n_told)
            self._fitted = n_told, process, Features.of(process, rng), self._pool(process, rng)
        return self._fitted[1:]

    def _fit(self, n_told: int) -> Process:
        """Return the process whose length scales were found last: at numbers of results that grow geometrically."""
        n = self._least
        while _GROWTH * n <= n_told:
            n *= _GROWTH
        if self._shape is None or self._shape[0] != n:
            self._shape = n, fit_process(self._data(n, _MOST_FITTED))
        return self._shape[1]

    def _data(self, n_told: int, most: int) -> Data:
        """Return the best and the newest of the first results."""
        rows = np.arange(n_told)
        if n_told > most:
            best = np.argsort(self._history.losses[:n_told], kind="stable")[: most // 2]
            rows = np.sort(np.concatenate([best, np.setdiff1d(rows, best)[-(most - most // 2) :]]))
        x, losses = self._history.x[rows], self._history.losses[rows]
        noise = np.full(len(rows), max(float(losses.var()), _LEAST))
        return Data(Plain(), x, losses, losses, noise, np.ones(len(rows)))

    def _pool(self, process: Process, rng: np.random.Generator) -> FloatArray:
        """Return points to begin with, (n_points, dimension)."""
        best = process.x[np.argsort(process.mean(process.x), kind="stable")[:_BEST]]
        centers = np.repeat(best, _NEAR, axis=0)
        moved = rng.random(centers.shape) < _MOVED / self._dimension
        away = rng.choice(np.array(_WIDTHS), (len(centers), 1)) * rng.standard_normal(centers.shape)
        near = np.clip(1.0 - np.abs(1.0 - np.abs(centers + moved * away)), 0.0, 1.0)
        return np.vstack([rng.random((_SPREAD_POINTS, self._dimension)), near])
