"""The models of a split as a table: its rows in Python, text in a terminal, HTML in a notebook."""

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape

from evomerge.results.front import Front
from evomerge.results.scored import ScoredModel
from evomerge.statistics import Estimate


@dataclass(frozen=True, eq=False, repr=False)
class Table:
    """Scored models, those on the front first, then by falling score; with 95 % confidence intervals.

    Every row is a scored model: `label`, `number` of its trial, `kind`, `tasks` (task -> estimate) and `score`; an
    estimate has a `mean` and an `interval`.

    Example:
        >>> from evomerge import Run
        >>> table = Run("runs/search").table("search")
        >>> best = table[0]
        >>> low, high = best.tasks["one"].interval
        >>> low < best.tasks["one"].mean < high
        True
    """

    front: Front

    def __getitem__(self, row: int) -> ScoredModel:
        return self.front.points[row]

    def __len__(self) -> int:
        return len(self.front.points)

    def __iter__(self) -> Iterator[ScoredModel]:
        return iter(self.front.points)

    def __repr__(self) -> str:
        cells = [self._head, *self._body]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
        ]
        return "\n".join([self._title, *lines])

    def _repr_html_(self) -> str:
        """The table for notebooks."""
        head = "".join(f"<th>{escape(cell)}</th>" for cell in self._head)
        rows = ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in self._body]
        body = "".join(f"<tr>{row}</tr>" for row in rows)
        caption = f"<caption>{escape(self._title)}</caption>"
        return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

    @property
    def _title(self) -> str:
        examples = ", ".join(f"{task} {count}" for task, count in self.front.examples.items())
        if not examples:
            return f"Nothing is scored on the {self.front.split} split yet."
        return f"{self.front.split} split ({examples} examples); [low, high] is a 95 % interval; * is on the front"

    @property
    def _head(self) -> list[str]:
        units = ((task, self.front.objective.unit(task)) for task in self.front.tasks)
        return ["", "model", *(f"{task} ({unit})" if unit else task for task, unit in units), "score"]

    @property
    def _body(self) -> list[list[str]]:
        return [
            ["*" if p.label in self.front.on_front else "", p.label, *map(_cell, p.tasks.values()), _cell(p.score)]
            for p in self.front.points
        ]


def _cell(value: Estimate) -> str:
    low, high = value.interval
    return f"{value.mean:.4g} [{low:.4g}, {high:.4g}]" if value.has_interval else f"{value.mean:.4g}"
