"""How much a score depends on each group's coefficients, from the points that the search measured anyway.

If all coefficients belong to one group, importance is computed per coefficient.

The score is fitted by a sum of parts, one per group: ridge regression (Hoerl and Kennard, 1970,
https://doi.org/10.1080/00401706.1970.10488634) on the group's coefficients and their squares. A group's importance is
the standard deviation of its part over the points: by how much the score moved with it. It is told beside what the
same fit makes of noise, for a fit finds something in anything: of the scatter that it cannot predict, shuffled.

Notation: n points, p = 2 n_coefficients features, K = F F^T (n, n), y centred scores (n, n_targets).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from scipy import linalg, sparse

from search_spaces.base import CoefficientTable, FloatArray

#: Fewer points than this say nothing about which group matters.
FEW_POINTS = 20
#: More than this are thinned out evenly: time grows with the third power.
MANY_POINTS = 400
RESAMPLES = 100
SHUFFLES = 200
_PENALTIES = np.logspace(-3, 4, 22)


@dataclass(frozen=True)
class Features:
    """values: (n, p), centred, every group's columns scaled to variance 1. group: (p,), a row of `names` each.

    by: of what the names are.
    """

    values: FloatArray
    group: np.ndarray[Any, np.dtype[np.int64]]
    names: tuple[str, ...]
    by: Literal["group", "coefficient"]

    @cached_property
    def within(self) -> sparse.csr_array:
        """Covariances of columns of the same group, (p, p)."""
        places = [np.flatnonzero(self.group == index) for index in range(len(self.names))]
        blocks = [self.values[:, place].T @ self.values[:, place] / len(self.values) for place in places]
        rows = np.concatenate([np.repeat(place, len(place)) for place in places])
        columns = np.concatenate([np.tile(place, len(place)) for place in places])
        return sparse.csr_array((np.concatenate([block.ravel() for block in blocks]), (rows, columns)))

    @cached_property
    def members(self) -> FloatArray:
        """1 where a column belongs to a group, else 0, (n_groups, p)."""
        found: FloatArray = (np.arange(len(self.names))[:, None] == self.group).astype(np.float64)
        return found


def importance(
    tables: Sequence[CoefficientTable], targets: Mapping[str, FloatArray], inputs: Sequence[str], seed: int = 0
) -> dict[str, Any]:
    """Importance of every group for every target, in the target's unit; `why` says so where it cannot be told.

    tables: of n points, all with the same groups. targets: name -> (n,). inputs: names of the merged models. Per
    target: explained, the share of the variance that the fit predicts of points left out; per group: value, low and
    high (bootstrap over points, 95 %), chance (what it finds in shuffled left-out errors stays below this 19 times
    out of 20). by: whether `groups` are the names of groups or, where there is one, of coefficients.
    """
    if len(tables) < FEW_POINTS:
        return {"why": f"{len(tables)} points with scores are too few; from {FEW_POINTS} on it is estimated."}
    rows = np.unique(np.linspace(0, len(tables) - 1, min(len(tables), MANY_POINTS)).round().astype(np.int64))
    features = build_features([tables[row] for row in rows], inputs)
    if not features.names:
        return {"why": "All points have the same coefficients."}
    rng = np.random.Generator(np.random.Philox(key=seed))
    found = {name: _of_target(features, values[rows], rng) for name, values in targets.items()}
    names = list(features.names)
    return {"why": None, "points": len(rows), "of": len(tables), "groups": names, "by": features.by, "targets": found}


def build_features(tables: Sequence[CoefficientTable], inputs: Sequence[str]) -> Features:
    """Coefficients and their squares, both scaled to variance 1; constant ones are left out."""
    groups = list(tables[0].groups)
    columns, owners, coefficients = [], [], []
    for name, first in tables[0].values.items():
        stacked = np.stack([table.values[name] for table in tables])  # (n, n_groups, n_inputs)
        columns.append(stacked.reshape(len(tables), -1))
        owners.append(np.repeat(np.arange(len(groups)), first.shape[1]))
        own = [f"{name}[{label}]" for label in inputs] if first.shape[1] == len(inputs) else [name]
        coefficients += own * len(groups)
    raw, owner = np.hstack(columns), np.concatenate(owners)
    spread = raw.std(axis=0)
    free = spread > 1e-12
    names = groups
    by: Literal["group", "coefficient"] = "group"
    if len(np.unique(owner[free])) == 1:
        names, by, owner = coefficients, "coefficient", np.arange(len(owner))
    scaled = (raw[:, free] - raw[:, free].mean(axis=0)) / spread[free]
    squares = scaled**2 - 1.0
    wide = squares.std(axis=0) > 1e-9  # a coefficient of two values has no square of its own
    squares = squares[:, wide] / squares[:, wide].std(axis=0)
    used = np.unique(owner[free])
    group = np.searchsorted(used, np.concatenate([owner[free], owner[free][wide]]))
    return Features(np.hstack([scaled, squares]), group, tuple(names[index] for index in used), by)


def _of_target(features: Features, y: FloatArray, rng: np.random.Generator) -> dict[str, Any]:
    centred = y - y.mean()
    n = len(y)
    if not centred.any():
        return {"why": "All points have the same score."}
    kernel = features.values @ features.values.T
    penalty, errors = _choose_penalty(kernel, centred)
    explained = 1.0 - float(np.mean(errors**2) / np.mean(centred**2))
    noise = errors - errors.mean()
    fitted = np.stack([centred, *(rng.permutation(noise) for _ in range(SHUFFLES))], axis=1)
    parts = _importances(features, np.arange(n), kernel, fitted, penalty)  # (n_groups, 1 + SHUFFLES)
    drawn = []
    for _ in range(RESAMPLES):
        rows = rng.integers(n, size=n)
        again = y[rows] - y[rows].mean()
        drawn.append(_importances(features, rows, kernel[np.ix_(rows, rows)], again[:, None], penalty)[:, 0])
    low, high = np.quantile(drawn, (0.025, 0.975), axis=0)
    chance = np.quantile(parts[:, 1:], 0.95, axis=1)
    columns = {"value": parts[:, 0], "low": low, "high": high, "chance": chance}
    return {"explained": explained, **{name: values.tolist() for name, values in columns.items()}}


def _choose_penalty(kernel: FloatArray, y: FloatArray) -> tuple[float, FloatArray]:
    """The penalty with the smallest squared error of points left out, and those errors, (n,).

    Left-out errors of a linear smoother H are (y - H y) / (1 - diag H).
    """
    values, vectors = np.linalg.eigh(kernel)
    values = np.maximum(values, 0.0)
    along = vectors.T @ y
    found = []
    for penalty in _PENALTIES:
        shrink = values / (values + penalty)
        leverage = np.einsum("ij,j,ij->i", vectors, shrink, vectors) + 1.0 / len(y)  # the mean takes part, too
        found.append((y - vectors @ (shrink * along)) / np.maximum(1.0 - leverage, 1e-9))
    best = int(np.argmin([np.mean(errors**2) for errors in found]))
    return float(_PENALTIES[best]), found[best]


def _importances(
    features: Features,
    rows: np.ndarray[Any, np.dtype[np.int64]],
    kernel: FloatArray,
    targets: FloatArray,
    penalty: float,
) -> FloatArray:
    """Standard deviation of every group's part over all points, (n_groups, n_targets), fitted to `rows`."""
    drawn = features.values[rows]
    if drawn.shape[1] < len(rows):  # of two systems with the same slopes, (p, n_targets), the smaller one
        gram = drawn.T @ drawn
        slopes = linalg.solve(gram + penalty * np.eye(len(gram)), drawn.T @ targets, assume_a="pos")
    else:
        slopes = drawn.T @ linalg.solve(kernel + penalty * np.eye(len(rows)), targets, assume_a="pos")
    # Columns are centred, so that a part has the mean 0.
    variances: FloatArray = features.members @ (slopes * (features.within @ slopes))
    deviations: FloatArray = np.sqrt(np.maximum(variances, 0.0))
    return deviations
