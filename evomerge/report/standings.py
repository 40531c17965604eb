"""The result of a study: the winner and its rivals, on examples that were never searched on."""

from math import isfinite

from rich.console import Group
from rich.table import Table
from rich.text import Text

from evomerge.report.words import digits_of, p_value
from evomerge.results import Repeat, Selection
from evomerge.statistics import Difference, Estimate


def render(selection: Selection) -> Group:
    """The table and the verdict for people: scores with 95 % intervals, and how far the winner is ahead."""
    rows = Table(title="Held-out examples (report split); ± is a 95 % interval", title_justify="left", pad_edge=False)
    rows.add_column("model", overflow="fold")
    for name in ("score", *selection.models[0].tasks, "winner ahead by", "p"):
        rows.add_column(Text(name), justify="right", overflow="fold")
    for model in selection.models:
        tasks = [_task(task) for task in model.tasks.values()]
        rows.add_row(Text(model.label), _estimate(model.score), *tasks, *_ahead(selection.leads.get(model.label)))
    return Group(rows, *(Text(line) for line in _lines(selection)))


def _task(value: Estimate) -> str:
    return f"{value.mean:.{digits_of(value)}f}" if abs(value.mean) < 10_000 else f"{value.mean:,.0f}"


def _lines(selection: Selection) -> list[str]:
    lines = [selection.verdict]
    if selection.scale:
        ends = ", ".join(f"{task} {worst:.4g} to {best:.4g}" for task, (worst, best) in selection.scale.items())
        lines.append(
            f"Tasks have different units: scores run from 0, the worst model on the select split, to 1 ({ends})."
        )
    if selection.front:
        lines.append(f"Not beaten by any model on the select split: {', '.join(selection.front)}.")
    if selection.repeat is not None:
        lines.append(_repeat(selection.repeat))
    return lines


def _repeat(repeat: Repeat) -> str:
    changed, examples = sum(repeat.changed.values()), sum(repeat.examples.values())
    if not changed:
        return f"Scored twice on the select split, {repeat.label} gave the same values for all {examples} examples."
    where = "; ".join(
        f"{task} {count}, its mean by {repeat.shifts[task]:+.2g}" for task, count in repeat.changed.items() if count
    )
    return (
        f"Scored twice on the select split, {repeat.label} gave another value for {changed} of {examples} examples "
        f"({where}), and its score moved by {repeat.moved:+.2g}."
    )


def _ahead(gap: Difference | None) -> tuple[str, str]:
    if gap is None:
        return "", ""
    return f"{gap.mean:+.{digits_of(gap)}f}{_margin(gap)}", p_value(gap.p) if isfinite(gap.half_width) else ""


def _estimate(value: Estimate) -> str:
    return f"{value.mean:.{digits_of(value)}f}{_margin(value)}"


def _margin(value: Estimate) -> str:
    """Nothing where there is no interval."""
    return f" ± {value.half_width:.{digits_of(value)}f}" if value.has_interval else ""
