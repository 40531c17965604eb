"""Coordinates at the end of what was searched: a better value may lie beyond, where nothing was tried."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evomerge.objective import FloatArray
from evomerge.results.coordinates import EVENT, method_at, methods_of
from evomerge.study import Study
from evomerge.trial import Trial

#: How near to an end, in widths of the range, is at it, and at how many ends a random point may be by chance: with many
#: coordinates only what lies nearer counts.
_NEAR, _BY_CHANCE = 0.01, 0.25
#: Number of coefficients to name before only counting the rest.
_NAMED = 3
_WIDEN = "widen `ranges` to search beyond"


@dataclass(frozen=True)
class RangeEnd:
    """A coordinate at an end of its range. value: the end. limit: whether values beyond it mean nothing."""

    name: str
    value: float
    upper: bool
    low: float
    high: float
    limit: bool

    def __str__(self) -> str:
        if self.limit:
            return f"{self.name}: {self.value:g} is the {'largest' if self.upper else 'smallest'} valid value"
        end = "upper" if self.upper else "lower"
        return f"{self.name}: {self.value:g} is the {end} bound of [{self.low:g}, {self.high:g}]"


def range_ends(study: Study, x: FloatArray | None) -> tuple[RangeEnd, ...]:
    """The ends that a point (dimension,) lies at; none where the ledger does not say what the coordinates are."""
    data = next((data for kind, data in study.events if kind == EVENT), None)
    if data is None or x is None or len(data["names"]) != len(x):
        return ()
    near = min(_NEAR, _BY_CHANCE / (2 * n_searched(study, x)))
    method = method_at(methods_of(study), x)
    own = "" if method is None else f"{method}: "
    found = []
    for name, coordinate in zip(data["names"], x, strict=True):
        known = data["ranges"].get(name.partition("[")[0]) if name.startswith(own) else None
        if known is not None and not near < coordinate < 1 - near:
            found.append(_end(name, known, upper=bool(coordinate > 0.5)))
    return tuple(found)


def n_searched(study: Study, x: FloatArray) -> int:
    """Return the number of coordinates that have an effect at a point, (dimension,)."""
    methods = methods_of(study)
    method = method_at(methods, x)
    return len(x) if methods is None or method is None else methods[method]


def ends_sentence(study: Study, *models: Trial) -> str:
    """The sentence on the ends at which the first of these models lies that lies at any, or else most of the finalists.

    models: the winner, and what it was not shown to beat. Empty where there is nothing to name.
    """
    for trial in models:
        ends = range_ends(study, trial.x)
        if trial.x is not None and ends:
            return f"{trial.label} lies {ends_text(ends, n_searched(study, trial.x))}."
    trials = (entry.trial for entry in study.told if entry.trial.split == "select" and entry.losses is not None)
    found = [range_ends(study, trial.x) for trial in trials if trial.merge is None]
    counts = Counter(end for ends in found for end in ends if not end.limit)
    shared = [(end, count) for end, count in counts.items() if len(found) > 2 and 2 * count > len(found)]
    if not shared:
        return ""
    said = "; ".join(f"{count} at {end}" for end, count in shared[:_NAMED])
    return f"Most of the {len(found)} finalists lie at a bound of a search range ({said}): {_WIDEN}."


def ends_text(ends: Sequence[RangeEnd], dimension: int) -> str:
    """`at the end of 2 of 7 searched ranges (...): widen `ranges` to search beyond`; empty without any."""
    if not ends:
        return ""
    first = sorted(ends, key=lambda end: end.limit)
    more = f"; and {len(ends) - _NAMED} more" if len(ends) > _NAMED else ""
    said = "; ".join(map(str, first[:_NAMED])) + more
    advice = "" if first[0].limit else f": {_WIDEN}"
    return f"at a bound of {len(ends)} of {dimension} search ranges ({said}){advice}"


def _end(name: str, known: Mapping[str, Any], *, upper: bool) -> RangeEnd:
    low, high = float(known["low"]), float(known["high"])
    return RangeEnd(name, high if upper else low, upper, low, high, bool(known["limits"][upper]))
