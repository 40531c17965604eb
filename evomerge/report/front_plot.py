"""Plot of a front: two tasks against each other, or more tasks on parallel axes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evomerge.report.plot import PlotError, new_figure, plain_label, save
from evomerge.report.words import heading
from evomerge.results.front import Front
from evomerge.results.ranking import losses_of
from evomerge.results.scored import ScoredModel
from evomerge.run import Run

FILE = "front.png"

_INK, _SOFT, _ACCENT, _MODEL = "#333333", "#b8c4ce", "#1f6fb2", "#c05621"
_MARKERS = "osD^vP*X<>"


def plot_front(run: Run, front: Front, path: Path | None = None) -> Path:
    """Draw a front; a PNG, `front.png` in the study by default. Raises PlotError."""
    if not front.choices:
        raise PlotError(f"No merge of {run.folder} is scored on the {front.split} split yet: nothing to draw.")
    figure, axes = new_figure(height=4.8)
    draw = _draw_pair if len(front.tasks) == 2 else _draw_side_by_side
    draw(axes, front, _roles(run, front))
    axes.set_title(_title(run, front), color=_INK, fontsize=9, loc="left")
    path = run.folder / FILE if path is None else path
    save(figure, path)
    return path


def _title(run: Run, front: Front) -> str:
    """Return the title; only plots of two tasks have error bars."""
    name = plain_label(run.folder.absolute().name)
    return f"{name}: {front.split} split" + ("; bars are 95 % intervals" if len(front.tasks) == 2 else "")


def _roles(run: Run, front: Front) -> dict[ScoredModel, list[str]]:
    """Return the suggested and the selected models, each with its roles."""
    why: dict[ScoredModel, list[str]] = {}
    for name, point in front.suggested.items():
        why.setdefault(point, []).append(name)
    for point in front.points:
        if point.label == run.selected:
            why.setdefault(point, []).append("selected")
    return why


def _draw_pair(axes: Any, front: Front, roles: Mapping[ScoredModel, list[str]]) -> None:
    """Draw one task against the other, with error bars on the front and on the base and parents."""
    first, second = front.tasks
    rest = [point for point in front.points if not point.is_parent and point not in front.choices]
    axes.plot(
        [p.tasks[first].mean for p in rest], [p.tasks[second].mean for p in rest], ".", color=_SOFT, label="dominated"
    )
    for points, color, label in (
        (front.choices, _ACCENT, "merges of the front"),
        (front.parents, _MODEL, "base and parents"),
    ):
        x, y = ([point.tasks[task].mean for point in points] for task in front.tasks)
        bars = [
            _bars([point.tasks[task].interval for point in points], means)
            for task, means in zip(front.tasks, (x, y), strict=True)
        ]
        axes.errorbar(
            x,
            y,
            xerr=bars[0],
            yerr=bars[1],
            fmt="o",
            color=color,
            ecolor=color,
            elinewidth=0.7,
            markersize=4,
            label=label,
        )
    for point in dict.fromkeys([*roles, *front.parents]):
        spot = (point.tasks[first].mean, point.tasks[second].mean)
        _label(axes, spot, _name(point, roles.get(point, ())), below=point.is_parent)
    axes.set_xlabel(_axis(front, first), color=_INK)
    axes.set_ylabel(_axis(front, second), color=_INK)
    axes.legend(frameon=False, fontsize=8)


def _label(axes: Any, spot: tuple[float, float], text: str, *, below: bool) -> None:
    """Draw a name beside its point, toward the middle, where long names have room."""
    left, right = axes.get_xlim()
    side, across = ("right", -4) if spot[0] > (left + right) / 2 else ("left", 4)
    edge, up = ("top", -4) if below else ("bottom", 4)
    axes.annotate(text, spot, xytext=(across, up), textcoords="offset points", ha=side, va=edge, fontsize=7, color=_INK)


def _draw_side_by_side(axes: Any, front: Front, roles: Mapping[ScoredModel, list[str]]) -> None:
    """Draw parallel axes, each task scaled from the worst (0) to the best (1) of the models shown.

    A line for every point that stands out; the others are strokes on each axis, since dozens of lines hide each other.
    """
    # The selected merge need not be on the front of this split.
    shown = list(dict.fromkeys([*front.choices, *front.parents, *roles]))
    losses = losses_of(shown)
    best, worst = losses.min(axis=0), losses.max(axis=0)
    heights = 1 - (losses - best) / np.where(worst > best, worst - best, 1.0)
    standing_out = _standing_out(front, roles)
    rest = [row for row, point in enumerate(shown) if point not in standing_out]
    across = np.arange(len(front.tasks))
    if rest:
        axes.plot(
            np.tile(across, len(rest)),
            heights[rest].ravel(),
            "_",
            color=_SOFT,
            markersize=14,
            label=f"{len(rest)} others",
        )
    for number, (point, why) in enumerate(standing_out.items()):
        axes.plot(
            across,
            heights[shown.index(point)],
            "--" if point.is_parent else "-",
            color=_MODEL if point.is_parent else _ACCENT,
            linewidth=1.2,
            marker=_MARKERS[number % len(_MARKERS)],
            markersize=5,
            label=f"{_name(point)}: {', '.join(why)}",
        )
    ends = zip(
        front.tasks, front.objective.as_scores(worst).values(), front.objective.as_scores(best).values(), strict=True
    )
    axes.set_xticks(across, [f"{_axis(front, task)}\n{low:.3g} to {high:.3g}" for task, low, high in ends], fontsize=8)
    axes.set_ylabel("worst to best of those shown", color=_INK)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8)


def _standing_out(front: Front, roles: Mapping[ScoredModel, list[str]]) -> dict[ScoredModel, list[str]]:
    """Return the models to name, each with reasons: a role, or being the best merge or parent on a task."""
    why = {point: list(names) for point, names in roles.items()}
    best_at: dict[ScoredModel, list[str]] = {}
    for points in filter(None, (front.choices, front.parents)):
        for column, task in enumerate(front.tasks):
            best = min(points, key=lambda point: float(point.losses[column]))
            best_at.setdefault(best, []).append(plain_label(task))
    for point, tasks in best_at.items():
        why.setdefault(point, []).append(f"best {'model' if point.is_parent else 'merge'} on {', '.join(tasks)}")
    return why


def _bars(intervals: list[tuple[float, float]], means: list[float]) -> Any:
    """Return the lengths of error bars below and above, (2, n_points); 0 without an interval."""
    lengths = np.abs(np.array(intervals, dtype=float).reshape(-1, 2).T - np.array(means))
    return np.where(np.isfinite(lengths), lengths, 0.0)


def _name(point: ScoredModel, roles: Sequence[str] = ()) -> str:
    return plain_label(point.label) + (f" ({', '.join(roles)})" if roles else "")


def _axis(front: Front, task: str) -> str:
    return plain_label(heading(front.objective, task)) + (
        "" if front.objective.sign(task) > 0 else " (lower is better)"
    )
