"""McNemar's exact test over several tasks. https://doi.org/10.1007/BF02295996

For equally good models, each example on which they differ goes to either with probability one half. The
statistic is the difference itself, the sum over tasks of weight x (wins - losses). Counting examples of all tasks
equally would answer another question: which model wins more examples, where a large task outvotes small ones.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

#: Cells of the grid on which sums of unequal weights are counted. Rounding never decreases p.
CELLS = 2**14


def sign_test(wins: Sequence[int], losses: Sequence[int], weights: Sequence[float]) -> float:
    """Return the two-sided p. wins, losses, weights: one per task; a weight is the effect of one example."""
    used = [row for row in zip(wins, losses, weights, strict=True) if row[0] + row[1] and row[2]]
    if not used:
        return 1.0
    won, lost, sizes = (np.array(column) for column in zip(*used, strict=True))
    if np.allclose(sizes, sizes[0], rtol=1e-9):
        fewer, total = int(min(won.sum(), lost.sum())), int((won + lost).sum())
        return min(1.0, 2 * float(_binomial(total)[: fewer + 1].sum()))
    return _weighted(won, lost, sizes)


def _weighted(won: NDArray[np.int64], lost: NDArray[np.int64], sizes: NDArray[np.float64]) -> float:
    totals = won + lost
    cell = float(totals @ sizes) / CELLS  # the sum of wins x size lies in [0, CELLS] cells
    chances = np.ones(1)
    for total, size in zip(totals, sizes, strict=True):
        places = np.rint(np.arange(total + 1) * size / cell).astype(int)
        longer = np.zeros(len(chances) + places[-1])
        for place, chance in zip(places, _binomial(int(total)), strict=True):
            longer[place : place + len(chances)] += chance * chances
        chances = longer
    farthest = max(float(won @ sizes), float(lost @ sizes)) / cell
    first = max(0, int(np.ceil(farthest - len(sizes) / 2 - 1e-6)))
    return min(1.0, 2 * float(chances[first:].sum()))


def _binomial(n: int) -> NDArray[np.float64]:
    """Return the probabilities of 0 to n heads among n tosses, (n + 1,). Importing SciPy takes longer than that."""
    log_factorials = np.array([math.lgamma(k + 1) for k in range(n + 1)])
    log_ways = log_factorials[n] - log_factorials - log_factorials[::-1]
    return np.asarray(np.exp(log_ways - n * np.log(2)))
