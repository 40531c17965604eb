"""Estimates as plain data for JSON; what is not known is null."""

import math

from evomerge.results.front import Front, Point
from evomerge.statistics import Difference, Estimate, Interval


def number(value: float) -> float | None:
    """A finite number, or null."""
    return float(value) if math.isfinite(value) else None


def estimate_data(value: Estimate) -> dict[str, float | int | None]:
    """Mean, 95 % interval where there is one, and examples."""
    low, high = value.interval if value.has_interval else (math.nan, math.nan)
    return {"mean": number(value.mean), "low": number(low), "high": number(high), "n": value.n_examples}


def difference_data(value: Difference) -> dict[str, float | int | None]:
    """The same for a paired difference, with its p."""
    return estimate_data(value) | {"p": value.p}


def interval_data(value: Interval | None) -> dict[str, float | None] | None:
    """A measured value with its 95 % interval."""
    return (
        None if value is None else {"mean": number(value.value), "low": number(value.low), "high": number(value.high)}
    )


def best_model(front: Front) -> Point | None:
    """Of the base and the parents, the one with the best score on a split."""
    return max(front.models, key=lambda point: (point.score.mean, -point.number), default=None)


def by_label(front: Front) -> dict[str, Point]:
    """The points of a split by label."""
    return {point.label: point for point in front.points}
