"""The front for people, as a table or on a narrow terminal as a list, and for programs."""

from collections.abc import Mapping, Sequence
from itertools import compress
from math import isfinite
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from evomerge.report import words
from evomerge.report.words import column, column_digits, count, plus_minus
from evomerge.results.front import Front, Point
from evomerge.results.predicted import Predicted, for_table
from evomerge.statistics import Difference, Estimate, Interval

#: Characters that a task, and all the other columns, take at least; on less there is a list.
TASK_WIDTH, OTHER_WIDTH = 9, 44


def front_to_dict(front: Front, selected: str | None = None) -> dict[str, Any]:
    """Plain data, for JSON; what is not known is null. selected: the label of the winner that the study has chosen."""
    curse = front.optimism
    return {
        "split": front.split,
        "tasks": {task: "larger" if front.objective.sign(task) > 0 else "smaller" for task in front.tasks},
        "examples": dict(front.examples),
        "points": [_point_to_dict(point) for point in front.points],
        **{name: point.label if (point := front.suggested.get(name)) else None for name in ("knee", "preferred")},
        "selected": selected,
        "optimism": None if curse is None else {"expected": curse.expected, "reliability": curse.reliability},
        "left_out": front.left_out,
        "pending": front.pending,
    }


def hypervolume_to_dict(front: Front) -> dict[str, Any] | None:
    """The hypervolume of all points and of the models alone, and the reference; None without any of the models."""
    if front.hypervolume is None or front.of_models is None or front.volume_reference is None:
        return None
    return {
        "of_all": _interval_to_dict(front.hypervolume),
        "of_models": _interval_to_dict(front.of_models),
        "reference": dict(front.volume_reference),
    }


def predicted_to_dict(points: Sequence[Predicted]) -> list[dict[str, Any]]:
    """Predictions, each with the measured point that is nearest."""
    return [
        {
            "number": point.number,
            "x": [float(value) for value in point.x],
            "tasks": {task: estimate_to_dict(value) for task, value in point.tasks.items()},
            "beaten": point.beaten,
            "nearest": point.nearest.label,
            "distance": point.distance,
        }
        for point in points
    ]


def estimate_to_dict(value: Estimate) -> dict[str, Any]:
    """Plain data of a score or of a paired difference, which has a p; an error that is not known is null."""
    known = isfinite(value.standard_error) and isfinite(value.half_width)
    data = {
        "mean": value.mean,
        "standard_error": value.standard_error if known else None,
        "interval": list(value.interval) if known else None,
        "n_examples": value.n_examples,
    }
    return data | {"p": value.p} if isinstance(value, Difference) else data


def render_front(front: Front, width: int, *, selected: str | None = None, everything: bool = False) -> RenderableType:
    """The points on the front; the selected one, models and averages wherever they are; or all that were scored."""
    wanted = (everything or p.on_front or _is_baseline(p) or p.label == selected for p in front.points)
    shown = list(compress(front.points, wanted))
    columns = [column(point.tasks[task] for point in shown) for task in front.tasks]
    deciding = list(dict.fromkeys(name for point in shown for name in point.decisive))
    columns += [[words.deciding(point.decisive[name]) for point in shown] for name in deciding]
    columns.append(column(point.score for point in shown))
    headings = ("model", *front.tasks, *deciding, "score", "P(front)", "")
    rows = [
        (
            ("* " if point.on_front else "  ") + point.label,
            *cells,
            f"{point.probability:.2f}",
            _remarks(front, point, selected),
        )
        for point, cells in zip(shown, zip(*columns, strict=True), strict=True)
    ]
    last = sum(point.on_front for point in shown) - 1
    table = _table(headings, rows, width, len(front.tasks) + len(deciding), last)
    others = len(front.points) - len(shown)
    more = [f"{count(others, 'more model')}, beaten by these: --all"] if others else []
    return Group(table, *(Text(line) for line in (*more, *words.meaning(deciding))))


def render_predicted(
    front: Front, points: Sequence[Predicted], width: int, *, everything: bool = False
) -> RenderableType:
    """Some of the predicted points that no measured one beats, or all of them, with what was measured nearest."""
    n_open = sum(not point.beaten for point in points)
    shown = tuple(point for point in points if not point.beaten) if everything else for_table(points)
    rows: list[tuple[str, ...]] = []
    digits = {task: column_digits(point.tasks[task] for point in shown) for task in front.tasks}
    for point in shown:
        tasks = [
            f"{plus_minus(value, digits[task])} ({point.nearest.tasks[task].mean:.3g})"
            for task, value in point.tasks.items()
        ]
        rows.append((f"predicted {point.number}", *tasks, f"{point.nearest.label}, {point.distance:.2g} away"))
    few = f"{len(shown)} of these are shown (--all), " if len(shown) < n_open else ""
    what = (
        "± is the doubt about the expected score, without the luck of measuring; in brackets what is measured nearest"
    )
    said = (
        f"\nPredicted on the search split, not measured: {count(len(points), 'point')}, {n_open} of them beaten by no "
        f"measured one. {f'{few}{what}.' if rows else ''}"
    )
    table = [_table(("", *front.tasks, "(measured nearest)"), rows, width, len(front.tasks))] if rows else []
    return Group(Text(said.rstrip(" ")), *table)


def hypervolume_line(front: Front) -> str:
    """`hypervolume of all models on the search split: 0.19 [0.12, 0.26]; base and parents alone 0.06 [...]; ...`."""
    if front.hypervolume is None or front.of_models is None or front.volume_reference is None:
        return f"hypervolume on the {front.split} split: not known, since neither the base nor a parent is scored there"
    start = ", ".join(f"{task} {value:.4g}" for task, value in front.volume_reference.items())
    return (
        f"hypervolume of all models on the {front.split} split: {_interval(front.hypervolume)}; base and parents alone "
        f"{_interval(front.of_models)}; from the worst of them on every task: {start}"
    )


def _is_baseline(point: Point) -> bool:
    return point.kind in ("base", "parent", "average")


def _remarks(front: Front, point: Point, selected: str | None) -> str:
    remarks = ["selected"] if point.label == selected else []
    remarks += [name for name, special in front.suggested.items() if special is point]
    if point.kind in ("start", "recommended"):
        remarks.append(point.kind)
    if not point.on_front:
        remarks.append("beaten")
    if point.is_merge and point.order[0] > 0:
        remarks.append("falls below keep")
    return ", ".join(remarks)


def _table(
    headings: Sequence[str], rows: Sequence[Sequence[str]], width: int, n_tasks: int, section: int = -1
) -> RenderableType:
    """A table; where it does not fit, one paragraph per row."""
    if width < OTHER_WIDTH + TASK_WIDTH * n_tasks:
        lines = []
        for name, *cells in rows:
            lines.append(name)
            lines += [
                f"    {heading} {cell}".rstrip() for heading, cell in zip(headings[1:], cells, strict=True) if cell
            ]
        return Text("\n".join(lines))
    table = Table(pad_edge=False)
    table.add_column(Text(headings[0]), overflow="fold")
    for heading in headings[1:]:
        table.add_column(Text(heading), justify="right" if heading else "left", overflow="fold")
    for number, row in enumerate(rows):
        table.add_row(*map(Text, row), end_section=number == section)
    return table


def _interval(interval: Interval) -> str:
    return f"{interval.value:.3g} [{interval.low:.3g}, {interval.high:.3g}]"


def _interval_to_dict(interval: Interval) -> dict[str, float]:
    return {"value": interval.value, "low": interval.low, "high": interval.high}


def _point_to_dict(point: Point) -> Mapping[str, Any]:
    return {
        "label": point.label,
        "number": point.number,
        "kind": point.kind,
        "on_front": point.on_front,
        "probability": point.probability,
        "score": estimate_to_dict(point.score),
        "shrunk": point.shrunk,
        "decisive": dict(point.decisive),
        "tasks": {task: estimate_to_dict(value) for task, value in point.tasks.items()},
    }
