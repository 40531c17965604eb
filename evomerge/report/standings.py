"""Table of a study's result: the winner and its rivals on held-out examples."""

from math import isfinite

from rich.console import Group
from rich.table import Table
from rich.text import Text

from evomerge.report.words import column_digits, plus_minus, signed
from evomerge.results.result import Selection
from evomerge.results.verdict import Repeat
from evomerge.statistics import Difference, Estimate, p_text


def render(selection: Selection) -> Group:
    """Render the table and the verdict: scores with 95 % intervals, and the winner's lead over each model."""
    rows = Table(
        title="Held-out examples (report split); ± is half a 95 % interval", title_justify="left", pad_edge=False
    )
    rows.add_column("model", overflow="fold")
    for name in ("score", *selection.models[0].tasks, "winner ahead by", "p"):
        rows.add_column(Text(name), justify="right", overflow="fold")
    models = selection.models
    digits = {task: column_digits(model.tasks[task] for model in models) for task in models[0].tasks}
    of_score, of_lead = column_digits(model.score for model in models), column_digits(selection.leads.values())
    for model in models:
        tasks = [_task(value, digits[task]) for task, value in model.tasks.items()]
        ahead = _ahead(selection.leads.get(model.label), of_lead)
        rows.add_row(Text(model.label), plus_minus(model.score, of_score), *tasks, *ahead)
    return Group(rows, *(Text(line) for line in _lines(selection)))


def _task(value: Estimate, digits: int) -> str:
    return f"{value.mean:.{digits}f}" if abs(value.mean) < 10_000 else f"{value.mean:,.0f}"


def _lines(selection: Selection) -> list[str]:
    lines = [selection.verdict]
    if selection.scale:
        ends = ", ".join(f"{task} {worst:.4g} to {best:.4g}" for task, (worst, best) in selection.scale.items())
        lines.append(
            f"Tasks have different units: scores are scaled from 0, the worst model on the select split, to 1 ({ends})."
        )
    if selection.front:
        lines.append(f"Non-dominated on the select split: {', '.join(selection.front)}.")
    if selection.repeat is not None:
        lines.append(_repeat(selection.repeat))
    return lines


def _repeat(repeat: Repeat) -> str:
    changed, examples = sum(repeat.changed.values()), sum(repeat.examples.values())
    if not changed:
        return f"Scored twice on the select split, {repeat.label} gave the same values for all {examples} examples."
    where = "; ".join(
        f"{task} {count}, mean shift {repeat.shifts[task]:+.2g}" for task, count in repeat.changed.items() if count
    )
    return (
        f"Scored twice on the select split, {repeat.label} gave different values for {changed} of {examples} examples "
        f"({where}); its score changed by {repeat.moved:+.2g}."
    )


def _ahead(gap: Difference | None, digits: int) -> tuple[str, str]:
    if gap is None:
        return "", ""
    return signed(gap, digits), p_text(gap.p) if isfinite(gap.half_width) else ""
