"""Progress plot of a study: candidates, the best merge so far, and baselines as lines."""

from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evomerge.durable import replacing
from evomerge.errors import EvomergeError
from evomerge.results.history import spent_after
from evomerge.results.progress import best_of_families, leaders
from evomerge.results.ranking import Ranking
from evomerge.results.scored import ScoredModel
from evomerge.run import Run
from evomerge.text.printable import one_line

FILE = "progress.png"
#: Characters of a name in a picture.
LONGEST = 48

_INK, _SOFT, _ACCENT = "#333333", "#b8c4ce", "#1f6fb2"
_LINES = ("#c05621", "#2f855a", "#805ad5", "#b83280", "#718096", "#975a16")


class PlotError(EvomergeError):
    """A plot that cannot be drawn: matplotlib is missing, or there is nothing to show yet."""


def plot_progress(run: Run, path: Path | None = None) -> Path:
    """Draw the search-split scores in order of completion as a PNG, by default `progress.png` in the study."""
    told = run.study.told
    ranking = Ranking(run.study, run.objective, "search") if any(entry.losses is not None for entry in told) else None
    if ranking is None or not ranking.candidates:
        raise PlotError(f"The study in {run.folder} has no scored candidate yet: nothing to draw.")
    baselines = best_of_families(model for model in ranking.models if not model.is_candidate)
    figure, axes = new_figure(height=4.2)
    order, title = np.arange(1, len(ranking.candidates) + 1), "candidates"
    ends = 0.5, len(order) + 0.5
    if run.study.parts:  # candidates differ in what they cost
        spent = spent_after(run.study, run.objective)
        order = np.array([spent[merge.number] for merge in ranking.candidates])
        title, ends = "evaluations of the search split", (0.0, 1.02 * max(spent.values()))
    _draw_candidates(axes, ranking.merges, order)
    _draw_baselines(axes, baselines, ends)
    axes.set_xlabel(title, color=_INK)
    _tidy(axes)
    path = run.folder / FILE if path is None else path
    save(figure, path)
    return path


def save(figure: Any, path: Path) -> None:
    """Write a figure as a PNG, complete or not at all. Raises OutputError."""
    with replacing(path) as part:
        figure.savefig(part, format="png")


def plain_label(text: str) -> str:
    """Return a name, shortened if long, that matplotlib shows literally: no formula, no hidden legend entry."""
    short = one_line(text)
    shown = (short if len(short) <= LONGEST else f"{short[: LONGEST - 3]}...").replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown


def new_figure(height: float) -> tuple[Any, Any]:
    """Return a figure and its axes; height in inches. Raises PlotError without matplotlib."""
    try:
        from matplotlib.figure import Figure  # an extra: only pictures need it
    except ImportError as error:
        raise PlotError("Pictures need matplotlib: pip install 'evomerge[plot]'.") from error
    figure = Figure(figsize=(7.5, height), dpi=150, layout="constrained")
    axes = figure.subplots()
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure, axes


def _draw_candidates(axes: Any, merges: list[ScoredModel], order: NDArray[Any]) -> None:
    """Draw the candidates and the best merge so far, in order of completion."""
    own = np.array([merge.is_candidate for merge in merges])
    # Baselines have no place on the axis: what they reached counts from the next candidate on, or else the last one.
    last = np.append(np.flatnonzero(own)[:-1], len(own) - 1)
    scores = [merge.score.mean for merge in merges if merge.is_candidate]
    axes.plot(order, scores, ".", color=_SOFT, markersize=5, label="candidates")
    so_far = leaders(merges)
    shown = [so_far[row] for row in last]
    axes.step(order, [m.score.mean for m in shown], where="post", color=_ACCENT, linewidth=2, label="best merge so far")
    if so_far[-1].score.has_interval:
        low, high = so_far[-1].score.interval
        since = order[shown.index(so_far[-1]) :]
        axes.fill_between(since, low, high, color=_ACCENT, alpha=0.12, linewidth=0, label="95 % interval")


def _draw_baselines(axes: Any, baselines: list[ScoredModel], ends: tuple[float, float]) -> None:
    for color, baseline in zip(cycle(_LINES), baselines, strict=False):
        axes.axhline(baseline.score.mean, color=color, linewidth=1, linestyle="--", label=plain_label(baseline.label))
    axes.set_xlim(*ends)


def _tidy(axes: Any) -> None:
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_ylabel("score on the search split", color=_INK)
    axes.grid(axis="y", color="#eeeeee")
    axes.set_axisbelow(True)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8)
