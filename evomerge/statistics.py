"""Standard errors, paired differences and power. n is the number of examples that both sides were scored on."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

FloatArray = NDArray[np.float64]

#: Two-sided 5 % point of the normal distribution.
Z95 = 1.959963984540054
#: z(97.5 %) + z(80 %): what a difference must reach, in standard errors, to be found 4 times out of 5.
POWER = 2.8015852


@dataclass(frozen=True)
class Estimate:
    """A mean over examples (or of several task means) with its standard error."""

    mean: float
    standard_error: float
    n_examples: int

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval."""
        return self.mean - Z95 * self.standard_error, self.mean + Z95 * self.standard_error


@dataclass(frozen=True)
class Difference(Estimate):
    """A paired difference a - b; `p` is exact McNemar's where every value is 0 or 1, else the normal one."""

    p: float

    @property
    def shown(self) -> bool:
        """Whether a was shown to be better than b, at 5 %."""
        return self.p < 0.05 and self.mean > 0


def estimate(values: Mapping[str, FloatArray]) -> Estimate:
    """Sum over tasks of the mean over examples; tasks are independent samples. NaN = not scored."""
    scored = {task: column[~np.isnan(column)] for task, column in values.items()}
    variance = sum(standard_error(column) ** 2 for column in scored.values())
    mean = float(sum(column.mean() for column in scored.values()))
    return Estimate(mean, math.sqrt(variance), sum(map(len, scored.values())))


def difference(a: Mapping[str, FloatArray], b: Mapping[str, FloatArray]) -> Difference:
    """Paired difference a - b: sum over tasks of the mean of per-example differences.

    a, b: task -> values in the same example order. Examples that either side lacks are left out of both.
    """
    deltas = {task: a[task] - b[task] for task in a}
    whole = estimate(deltas)
    column = np.concatenate([delta[~np.isnan(delta)] for delta in deltas.values()])
    p = _mcnemar(column) if _all_equal_size(column) else _normal(whole)
    return Difference(whole.mean, whole.standard_error, whole.n_examples, p)


def standard_error(values: FloatArray) -> float:
    """sqrt(sum (s - m)^2 / (n (n - 1))); infinite for fewer than two values."""
    n = len(values)
    return float(np.sqrt(np.sum((values - values.mean()) ** 2) / (n * (n - 1)))) if n > 1 else math.inf


def detectable(disagreement: float, n_examples: int) -> float:
    """The difference found 4 times out of 5 at 5 %, when two models disagree on this share of examples."""
    return POWER * math.sqrt(disagreement / n_examples)


def examples_needed(disagreement: float, delta: float) -> int:
    """How many examples are needed to find a difference of `delta` 4 times out of 5 at 5 %."""
    return math.ceil(POWER**2 * disagreement / delta**2)


def _all_equal_size(deltas: FloatArray) -> bool:
    sizes = np.unique(np.abs(deltas[deltas != 0]))
    return bool(len(sizes) <= 1)


def _mcnemar(deltas: FloatArray) -> float:
    wins, losses = int(np.sum(deltas > 0)), int(np.sum(deltas < 0))
    return min(1.0, 2.0 * float(stats.binom.cdf(min(wins, losses), wins + losses, 0.5)))


def _normal(whole: Estimate) -> float:
    if whole.standard_error == 0:
        return 1.0 if whole.mean == 0 else 0.0
    return float(2.0 * stats.norm.sf(abs(whole.mean) / whole.standard_error))
