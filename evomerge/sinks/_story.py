"""What a run says of itself in numbers, record by record; the same for every tracker."""

from collections.abc import Iterable
from datetime import datetime

from evomerge.aim import objective_of_study
from evomerge.budget import is_candidate
from evomerge.mirror import Change, Mirror
from evomerge.report.snapshot import search_score
from evomerge.sinks.base import Point, Value
from evomerge.study import Entry


class Story:
    """Turns what a mirror saw into points and facts.

    Of every trial told on the search split: `score` and `task/...`, `trial` (its number), `told`, `best` so far,
    `failures` so far, `seconds/...` by stage. Of the run as a whole: every baseline's scores.
    """

    def __init__(self, mirror: Mirror) -> None:
        self._mirror = mirror
        self._told = self._failures = 0
        self._best: float | None = None

    def tell(self, changes: Iterable[Change]) -> tuple[list[Point], dict[str, Value]]:
        """Points and facts of these changes."""
        points, facts = [], dict[str, Value]()
        for change in changes:
            if change.kind == "told" and change.number is not None:
                entry = self._mirror.study.entries[change.number]
                if entry.trial.split == "search":
                    points.append(self._point(entry, change.at, facts))
        return points, facts

    def _point(self, entry: Entry, at: datetime, facts: dict[str, Value]) -> Point:
        self._told += is_candidate(entry.trial)
        values: dict[str, float] = {"trial": float(entry.trial.number)}
        if entry.losses is None:
            self._failures += 1
        else:
            found = search_score(entry, objective_of_study(self._mirror.study))
            scores = {f"task/{task}": mean for task, mean in found.tasks.items()}
            if found.score is not None:
                scores["score"] = found.score
            values |= scores
            if entry.trial.merge is not None:
                facts |= {f"baseline/{entry.trial.label}/{name}": value for name, value in scores.items()}
            elif found.score is not None and is_candidate(entry.trial):
                self._best = found.score if self._best is None else max(self._best, found.score)
        if self._best is not None:
            values["best"] = self._best
        values |= {"told": float(self._told), "failures": float(self._failures)}
        if entry.outcome is not None:
            values |= {f"seconds/{stage}": seconds for stage, seconds in entry.outcome.seconds.items()}
        return Point(entry.told_at or 0, at, values)
