"""A front as a table, or as a list on a narrow terminal."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from evomerge.report import words
from evomerge.report.words import column, column_digits, count, plus_minus
from evomerge.results.front import Front
from evomerge.results.predicted import Predicted, for_table
from evomerge.results.scored import ScoredModel
from evomerge.statistics import Interval

#: Characters that a task, and all the other columns, take at least; on less there is a list.
TASK_WIDTH, OTHER_WIDTH = 9, 44


def render_front(front: Front, width: int, *, selected: str | None = None, everything: bool = False) -> RenderableType:
    """Render the front, the selected model, parents and baselines; everything: all scored models."""
    named = front.on_front | {selected}
    shown = [point for point in front.points if everything or point.label in named or not point.is_candidate]
    columns = [column(point.tasks[task] for point in shown) for task in front.tasks]
    deciding = list(dict.fromkeys(name for point in shown for name in point.decisive))
    columns += [[words.deciding(point.decisive[name]) for point in shown] for name in deciding]
    columns.append(column(point.score for point in shown))
    headings = (
        "model",
        *(words.heading(front.objective, task) for task in front.tasks),
        *deciding,
        "score",
        "P(front)",
        "",
    )
    rows = [
        (
            ("* " if point.label in front.on_front else "  ") + point.label,
            *cells,
            f"{front.probability[point.label]:.2f}",
            _remarks(front, point, selected),
        )
        for point, cells in zip(shown, zip(*columns, strict=True), strict=True)
    ]
    last = sum(point.label in front.on_front for point in shown) - 1
    table = _table(headings, rows, width, len(front.tasks) + len(deciding), last)
    others = len(front.points) - len(shown)
    more = [f"{count(others, 'more model')}, dominated by these: --all"] if others else []
    return Group(table, *(Text(line) for line in (*more, *words.meaning(deciding))))


def render_predicted(
    front: Front, points: Sequence[Predicted], width: int, *, everything: bool = False
) -> RenderableType:
    """Render predicted points that no measured one dominates, some or all, each with the nearest measured model."""
    n_open = sum(not point.dominated for point in points)
    shown = tuple(point for point in points if not point.dominated) if everything else for_table(points)
    rows: list[tuple[str, ...]] = []
    digits = {task: column_digits(point.tasks[task] for point in shown) for task in front.tasks}
    for point in shown:
        tasks = [
            f"{plus_minus(value, digits[task])} ({point.nearest.tasks[task].mean:.3g})"
            for task, value in point.tasks.items()
        ]
        rows.append((f"predicted {point.number}", *tasks, f"{point.nearest.label}, {point.distance:.2g} away"))
    names = [words.heading(front.objective, task) for task in front.tasks]
    few = f"{len(shown)} of these are shown (all with --all); " if len(shown) < n_open else ""
    what = "± is half a 95 % interval of the expected score, without sampling error; in brackets the nearest measured"
    said = (
        f"\nPredicted on the search split, not measured: {count(len(points), 'point')}, {n_open} of them not "
        f"dominated by a measured model. {f'{few}{what}.' if rows else ''}"
    )
    table = [_table(("", *names, "(measured nearest)"), rows, width, len(front.tasks))] if rows else []
    return Group(Text(said.rstrip(" ")), *table)


def hypervolume_line(front: Front) -> str:
    """Format the hypervolume of all models and of the base and parents alone, with intervals and reference point."""
    if front.hypervolume is None or front.of_models is None or front.volume_reference is None:
        return f"hypervolume on the {front.split} split: unknown, since neither the base nor a parent is scored there"
    start = ", ".join(f"{task} {value:.4g}" for task, value in front.volume_reference.items())
    return (
        f"hypervolume of all models on the {front.split} split: {_interval(front.hypervolume)}; base and parents alone "
        f"{_interval(front.of_models)}; reference point, the worst of them on each task: {start}"
    )


def _remarks(front: Front, point: ScoredModel, selected: str | None) -> str:
    remarks = ([] if point.method is None else [point.method]) + (["selected"] if point.label == selected else [])
    remarks += [name for name, special in front.suggested.items() if special is point]
    if point.kind in ("start", "recommended"):
        remarks.append(point.kind)
    if point.label not in front.on_front:
        remarks.append("dominated")
    if not point.is_parent and not point.keeps:
        remarks.append("violates keep")
    return ", ".join(remarks)


def _table(
    headings: Sequence[str], rows: Sequence[Sequence[str]], width: int, n_tasks: int, section: int = -1
) -> RenderableType:
    """Render a table, or one paragraph per row where the table does not fit."""
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
