"""The knobs of a report: the fronts that its slider goes along."""

import shlex
from collections.abc import Mapping
from itertools import combinations
from typing import Any

from evomerge.results.front import Front
from evomerge.results.knob import Knob, knob
from evomerge.results.pick import ChoiceError
from evomerge.study import Study


def knobs(study: Study, fronts: Mapping[str, Front]) -> list[dict[str, Any]]:
    """Return the scored merges along the front of every two tasks, on the search and select splits."""
    found = []
    for split in ("search", "select"):
        tasks = fronts[split].tasks
        for pair in combinations(tasks, 2):
            try:
                arranged = knob(study, fronts[split], pair)
            except ChoiceError:  # fewer than two merges: nothing to turn
                continue
            between = "" if len(tasks) == 2 else f" --between {shlex.quote(','.join(pair))}"
            found.append(_knob_to_dict(arranged, f"{between} --split {split}"))
    return found


def _knob_to_dict(arranged: Knob, options: str) -> dict[str, Any]:
    """options: of `evomerge pick --knob T`, for the same knob."""
    return {
        "split": arranged.split,
        "tasks": list(arranged.tasks),
        "stops": [{"label": s.point.label, "number": s.point.number, "t": s.t} for s in arranged.stops],
        "joined": list(arranged.joined),
        "options": options,
    }
