"""Cost of the selection: the number of models scored after the search, and the time."""

import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass

from evomerge.objective import Objective
from evomerge.results.finalists import FINALISTS, FRONT_FINALISTS, GRID_FINALISTS
from evomerge.trial import UNIFORM, Origin

#: What is kept for the driver and for evaluations that take longer than the last ones did, as a share.
MARGIN = 0.1


@dataclass(frozen=True)
class Scorings:
    """Maximum number of models scored after the search, by split; on search, the optimizer's recommendation."""

    search: int
    select: int
    report: int


def scorings(objective: Objective, baselines: Collection[str], searched: int | None, *, recommends: bool) -> Scorings:
    """Return upper bounds on the number of models that the selection scores.

    baselines: their labels. searched: number of candidates that the search has had; None for unlimited.
    recommends: whether the optimizer names a point of its own at its end.
    """
    most = FRONT_FINALISTS if objective.pareto else FINALISTS
    merges = most if searched is None else min(most, searched)
    experts = sum(Origin.of(label) is Origin.PARENT for label in baselines)
    kept = sum(Origin.of(label).is_parent or label == UNIFORM for label in baselines)
    grid = len(baselines) - kept
    rerun = min(1, experts)
    return Scorings(
        search=int(recommends),
        select=merges + recommends + kept + min(GRID_FINALISTS, grid) + rerun,
        report=(merges + recommends if objective.pareto else 1) + kept + min(1, grid),
    )


def selection_seconds(
    count: Scorings,
    stages: Mapping[str, float],
    examples: Mapping[str, Mapping[str, int]],
    slots: int,
    report_only: int = 0,
) -> float:
    """Estimate the seconds of the selection on `slots` workers from the seconds of a candidate by stage.

    examples: task -> split -> their number. report_only: number of those of tasks that are only reported, which are
    taken to need as long as those of the other tasks do on average.
    """

    searched = sum(counts["search"] for counts in examples.values())
    each = sum(stages.get(f"evaluate:{task}", 0.0) for task in examples) / searched

    def one(split: str) -> float:
        shares = {f"evaluate:{task}": counts[split] / counts["search"] for task, counts in examples.items()}
        more = each * report_only if split == "report" else 0.0
        return sum(seconds * shares.get(stage, 1.0) for stage, seconds in stages.items()) + more

    rounds = {split: math.ceil(number / max(1, slots)) for split, number in asdict(count).items()}
    return (1 + MARGIN) * sum((number * one(split) for split, number in rounds.items()), start=0.0)
