"""95 % confidence intervals of a sum of task means, reliable for few examples and for scores near 0 and 1.

A task of zeros and ones gets pseudo-examples, one of each kind, shared among such tasks: for a single
task this is Wilson's interval (means) and that of Agresti and Min with one pseudo-example (differences). Graded values
use Student's t with Satterthwaite's degrees of freedom.
https://doi.org/10.1080/01621459.1927.10502953  https://doi.org/10.1002/sim.2027  https://doi.org/10.2307/3002019
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evomerge.statistics.distributions import student_quantile

FloatArray = NDArray[np.float64]

#: An interval's ends, and an interval relative to its mean, are exact to this fraction.
ROUNDING = 1e-12
#: Two-sided 5 % quantile of the normal distribution.
Z95 = 1.959963984540054


@dataclass(frozen=True)
class Part:
    """One task's contribution to an interval: its center, its variance, and the variance's degrees of freedom."""

    centre: float
    variance: float
    degrees: float = math.inf


def mean_of_zeros_and_ones(right: float, n: float, size: float, n_tasks: int) -> Part:
    """Return the mean of n values of which `right` are `size` and the others 0; n_tasks share the pseudo-examples."""
    share, extra = right / n, Z95**2 / n_tasks
    centre = (right + extra / 2) / (n + extra)
    variance = (n * share * (1 - share) + extra / 4) / (n + extra) ** 2
    return Part(size * centre, size**2 * variance)


def mean_of_wins_and_losses(wins: float, losses: float, n: float, size: float, n_tasks: int) -> Part:
    """Return the mean of n paired differences: `wins` are +size, `losses` -size, the others 0."""
    extra = 1 / n_tasks
    for_, against = (wins + extra / 2) / (n + extra), (losses + extra / 2) / (n + extra)
    variance = (for_ + against - (for_ - against) ** 2) / (n + extra)
    return Part(size * (wins - losses) / n, size**2 * variance)


def interval(parts: Sequence[Part], *, around: float) -> tuple[float, float]:
    """Return the 95 % interval of the sum of independent parts; infinite if a variance is.

    around: the mean, which an end can miss only by rounding error. Ends as close to 0 are 0.
    """
    centre = sum(part.centre for part in parts)
    half = student(degrees(parts)) * math.sqrt(sum(part.variance for part in parts))
    low, high = (0.0 if abs(end) < ROUNDING * half else end for end in (centre - half, centre + half))
    return min(low, around), max(high, around)


def degrees(parts: Sequence[Part]) -> float:
    """Return Satterthwaite's degrees of freedom of the variance of the sum."""
    variance = sum(part.variance for part in parts)
    if not 0 < variance < math.inf:
        return math.inf
    doubt = sum((part.variance / variance) ** 2 / part.degrees for part in parts)
    return 1 / doubt if doubt > 0 else math.inf


def student(degrees: float) -> float:
    """Return the two-sided 5 % quantile of Student's t; the normal one for infinite degrees."""
    return Z95 if math.isinf(degrees) else student_quantile(degrees, 0.975)
