"""Studies of two tasks whose fronts can be worked out by hand, written record by record."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from evaluators.base import Scores
from evomerge.objective import Objective
from evomerge.objective.floor import keep_data
from evomerge.objective.spec import record_objective
from evomerge.study import Study
from evomerge.trial import Outcome, Trial
from tests.evomerge.report.studies import baseline

#: Right answers to (math, chat), of ten each. The merges' front is 5, 6, 7 and 8; 9 is as good as 6, 10 dominated.
SEARCH = {
    "base": (2, 2),
    "parent:math": (8, 3),
    "parent:chat": (2, 8),
    "uniform": (4, 4),
    "start": (3, 5),
    5: (9, 1),
    6: (6, 6),
    7: (1, 9),
    8: (7, 4),
    9: (6, 6),
    10: (5, 4),
}
PARETO = Objective({"math": 1.0, "chat": 1.0}, kind="pareto")


def values(right: int, n_examples: int = 10) -> np.ndarray:
    return (np.arange(n_examples) < right).astype(float)


def outcome(
    number: int, right: Sequence[int], tasks: Sequence[str] = ("math", "chat"), n_examples: int = 10
) -> Outcome:
    ids = tuple(f"{n:016x}" for n in range(n_examples))
    return Outcome(number, {t: Scores(ids, values(k, n_examples)) for t, k in zip(tasks, right, strict=True)})


def tell(study: Study, trial: Trial, right: Sequence[int], objective: Objective = PARETO, n_examples: int = 10) -> None:
    found = outcome(trial.number, right, tuple(objective.weights), n_examples)
    study.ask(trial)
    study.tell(found, [float(loss) for loss in objective.losses(found.scores)])


def trial(number: int, label: str | int, split: str = "search") -> Trial:
    """A baseline by its label; `start`; a candidate by its number, which is `trial:N` on the other splits."""
    if isinstance(label, str) and label != "start":
        return Trial(number, None, merge=baseline(0.5), label=label, split=split)
    named = label if isinstance(label, str) else "search" if split == "search" else f"trial:{label}"
    return Trial(number, np.array([number / 20, 0.5]), label=named, split=split)


def write_front(
    folder: Path,
    models: Mapping[str | int, Sequence[int]] = SEARCH,
    objective: Objective = PARETO,
    optimizer: str = "random",
) -> Study:
    """A study with these models on the search split, numbered from 0 on; still open for writing."""
    spec: dict[str, object] = {"prefer": dict(objective.weights)} if objective.pareto else {}
    spec |= {"keep": keep_data(objective.keep)} if objective.keep else {}
    kind = dict(objective.weights) if objective.kind == "mean" else objective.kind
    tasks = dict.fromkeys(objective.weights, "synthetic")
    configuration = {"tasks": tasks, "objective": kind, "optimizer": optimizer, "seed": 0, **spec}
    study = Study.create(folder, configuration, {})
    record_objective(study, objective)
    for number, (label, right) in enumerate(models.items()):
        tell(study, trial(number, label), right, objective)
    return study


def finish(study: Study, select: Mapping[str | int, Sequence[int]], report: Mapping[str | int, Sequence[int]]) -> None:
    """Score these models on the select and report splits, as a study does at its end, and close it."""
    for split, models in (("select", select), ("report", report)):
        if split == "report" and models:
            study.event("report_split_read", winner="trial:6")
        for label, right in models.items():
            tell(study, trial(study.next_number, label, split), right)
    study.close()
