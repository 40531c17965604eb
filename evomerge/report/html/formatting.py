"""Formatting of the page's numbers, and the rows of its tables."""

import math
from collections.abc import Mapping
from typing import Any

from evomerge.report import words
from evomerge.results.as_json import estimate_of
from evomerge.results.scored import CANDIDATES

#: Number of points listed in addition to front, finalists and baselines.
LISTED = 300
#: Placeholder of a missing number.
NOTHING = "-"


def estimate(value: Mapping[str, Any] | None) -> str:
    """Format an estimate with its interval: `0.784 [0.755, 0.813]`; a dash for None."""
    if value is None or value["mean"] is None:
        return NOTHING
    found = estimate_of(value)
    return words.estimate(found) if found.has_interval else number(found.mean)


def plus_minus(value: Mapping[str, Any]) -> str:
    """Format an estimate with half its interval: `0.784 ± 0.029`."""
    found = estimate_of(value)
    return words.plus_minus(found) if found.has_interval else estimate(value)


def mean(value: Mapping[str, Any] | None) -> str:
    """Format a mean, `0.784`, with the decimals that its interval justifies."""
    return estimate(value).partition(" ")[0]


def gain(value: Mapping[str, Any]) -> str:
    """Format a difference with its sign and interval: `+0.135 [0.102, 0.168]`."""
    text = estimate(value)
    return text if value["mean"] < 0 else f"+{text}"


def percent(value: float) -> str:
    """Format a share: `42 %`; only 0 and 1 are shown as 0 % and 100 %."""
    if 0 < value < 0.01:
        return "<1 %"
    return ">99 %" if 0.99 < value < 1 else f"{100 * value:.0f} %"


def number(value: float | None) -> str:
    """Format a number with three significant digits, large ones whole; a dash for None."""
    if value is None:
        return NOTHING
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def tables(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the rows of tables that combine several parts of the data."""
    winner = data["headline"]["winner"]
    points = data["points"]
    finalists = {row["label"] for row in data["luck"]["finalists"]}
    named = [point for point in points if _listed_first(point, winner, finalists)]
    named.sort(key=lambda point: point["label"] != winner)  # a long table shows its first rows
    shown = {point["label"] for point in named}
    rest = [point for point in points if point["label"] not in shown]
    baselines = [point for point in points if point["kind"] not in CANDIDATES]
    stages = sorted(data["cost"]["stages"].items(), key=lambda stage: -stage[1])
    whole = sum(seconds for _, seconds in stages)
    return {
        "named": named,
        "rest": rest[:LISTED],
        "unlisted": len(rest[LISTED:]),
        "knobs": list(dict.fromkeys(" to ".join(knob["tasks"]) for knob in data["knobs"])),
        "predicted": [point for point in data["predictions"] if point["listed"]],
        "open": sum(not point["beaten"] for point in data["predictions"]),
        "baselines": sorted(baselines, key=lambda point: -_searched(point)),
        "stages": [(name, seconds, seconds / whole if whole > 0 else 0.0) for name, seconds in stages],
        "claims": data["comparisons"].get(winner),
        "reported": list(
            dict.fromkeys(label for row in data["headline"].get("report_only", ()) for label in row["models"])
        ),
        "observed": _observed(data["luck"]["finalists"]),
    }


def _listed_first(point: Mapping[str, Any], winner: str | None, finalists: set[str]) -> bool:
    on_front = any(split["on_front"] for split in point["splits"].values())
    return on_front or point["label"] == winner or point["label"] in finalists or point["kind"] in ("parent", "base")


def _searched(point: Mapping[str, Any]) -> float:
    found = point["splits"].get("search")
    return -math.inf if found is None or found["score"]["mean"] is None else found["score"]["mean"]


def _observed(finalists: list[dict[str, Any]]) -> float | None:
    """Return the mean drop of the finalists' scores from the search split to the select split."""
    falls = [
        row["search"]["mean"] - row["select"]["mean"]
        for row in finalists
        if row["kind"] in CANDIDATES and row["search"] is not None
    ]
    return sum(falls) / len(falls) if falls else None
