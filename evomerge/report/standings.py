"""The result of a study: the winner and its rivals, on examples that were never searched on."""

from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from evomerge.report.words import decimals
from evomerge.selection import Selection, Standing
from evomerge.statistics import Z95, Estimate


def selection_to_dict(selection: Selection) -> dict[str, Any]:
    """Plain data, for JSON; standard errors that are not known are null."""
    return {
        "winner": selection.winner.label,
        "verdict": selection.verdict,
        "looks_at_report": selection.looks,
        "standings": [_standing_to_dict(standing) for standing in selection.standings],
    }


def render(selection: Selection) -> Group:
    """The table and the verdict for people: scores with 95 % intervals, and how far the winner is ahead."""
    rows = Table(title="Held-out examples (report split); ± is a 95 % interval", title_justify="left", pad_edge=False)
    rows.add_column("model", overflow="fold")
    for name in ("score", *selection.standings[0].tasks, "winner ahead by", "p"):
        rows.add_column(name, justify="right", overflow="fold")
    for standing in selection.standings:
        tasks = [f"{task.mean:.{_digits(task)}f}" for task in standing.tasks.values()]
        rows.add_row(Text(standing.label), _estimate(standing.score), *tasks, *_ahead(standing))
    return Group(rows, Text(selection.verdict))


def _ahead(standing: Standing) -> tuple[str, str]:
    if standing.behind is None:
        return "", ""
    p = f"{standing.behind.p:.2g}" if standing.behind.p >= 0.0001 else "<0.0001"
    return f"{standing.behind.mean:+.{_digits(standing.behind)}f} {_margin(standing.behind)}", p


def _estimate(value: Estimate) -> str:
    return f"{value.mean:.{_digits(value)}f} {_margin(value)}"


def _margin(value: Estimate) -> str:
    return f"± {Z95 * value.standard_error:.{_digits(value)}f}"


def _digits(value: Estimate) -> int:
    return decimals(Z95 * value.standard_error)


def _standing_to_dict(standing: Standing) -> dict[str, Any]:
    return {
        "label": standing.label,
        **_estimate_to_dict(standing.score),
        "tasks": {task: _estimate_to_dict(value) for task, value in standing.tasks.items()},
        "winner_ahead": None
        if standing.behind is None
        else _estimate_to_dict(standing.behind) | {"p": standing.behind.p},
    }


def _estimate_to_dict(value: Estimate) -> dict[str, Any]:
    known = value.standard_error < float("inf")
    return {
        "mean": value.mean,
        "standard_error": value.standard_error if known else None,
        "interval": list(value.interval) if known else None,
        "n_examples": value.n_examples,
    }
