"""Table of a study's result: the winner and its rivals on held-out examples."""

from math import isfinite

from rich.console import Group
from rich.table import Table
from rich.text import Text

from evomerge.report.words import column_digits, plus_minus, signed, task_mean
from evomerge.results.flips import share_lost
from evomerge.results.result import Selection
from evomerge.results.verdict import Repeat
from evomerge.statistics import Difference, Estimate, p_text


def render(selection: Selection) -> Group:
    """Render the table and the verdict.

    Scores have 95 % intervals. "answers lost" is the share of examples, over all tasks with right and wrong answers,
    that the best parent on the task gets right and the model gets wrong. Tasks that are only reported come last.
    """
    rows = Table(
        title="Held-out examples (report split); ± is half a 95 % interval", title_justify="left", pad_edge=False
    )
    rows.add_column("model", overflow="fold")
    models = selection.models
    lost = [share_lost(selection.flips.get(model.label, ())) for model in models]
    has_flips = any(share is not None for share in lost)
    only = [f"{each.task} (reported only)" for each in selection.report_only]
    for name in ("score", *models[0].tasks, *(["answers lost"] if has_flips else []), "winner ahead by", "p", *only):
        rows.add_column(Text(name), justify="right", overflow="fold")
    digits = {task: column_digits(model.tasks[task] for model in models) for task in models[0].tasks}
    of_score, of_lead = column_digits(model.score for model in models), column_digits(selection.leads.values())
    for model, share in zip(models, lost, strict=True):
        tasks = [_task(value, digits[task]) for task, value in model.tasks.items()]
        ahead = _ahead(selection.leads.get(model.label), of_lead)
        rows.add_row(
            Text(model.label),
            plus_minus(model.score, of_score),
            *tasks,
            *([_share(share)] if has_flips else []),
            *ahead,
            *(_mean(each.estimates.get(model.label)) for each in selection.report_only),
        )
    return Group(rows, *(Text(line) for line in _lines(selection)))


def _task(value: Estimate, digits: int) -> str:
    return f"{value.mean:.{digits}f}" if abs(value.mean) < 10_000 else f"{value.mean:,.0f}"


def _mean(value: Estimate | None) -> str:
    return "" if value is None else task_mean(value.mean)


def _share(lost: float | None) -> str:
    return "" if lost is None else f"{100 * lost:.1f} %"


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
