"""Trials that are no whole candidates: steps along gradients, and candidates that were scored on part of the examples.

All of it is read off the ledger and printed by `--json` as it is; keys are added, never renamed.
"""

from collections import Counter
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np

from evomerge.objective import Objective
from evomerge.results.as_json import number
from evomerge.results.history import spent_after
from evomerge.search_examples import SearchExamples
from evomerge.study import Entry, Study
from evomerge.trial import Origin, Trial

#: Steps over which the loss of a descent is averaged: that of one step is the loss of a few examples.
SMOOTHED = 10


def gradients(study: Study, objective: Objective) -> dict[str, Any] | None:
    """Return the steps along gradients and the points on whose scores they were checked; None without a step.

    steps: columns with one item per step: `loss` is the weighted mean loss of its examples, `smoothed` the mean over
    the last `smoothed` steps since the check before, `checks` the number of checks before. checks: the whole candidates
    at which the steps arrived. skipped: steps without a finite gradient.
    """
    names = ("number", "checks", "evaluations", "examples", "loss", "smoothed")
    steps: dict[str, list[Any]] = {name: [] for name in names}
    checks: list[dict[str, Any]] = []
    recent: list[float] = []
    skipped = 0
    spent = spent_after(study, objective)
    for entry in _ended(study):
        trial = entry.trial
        if trial.gradient is not None:
            loss = step_loss(entry)
            recent = [*recent, loss][-SMOOTHED:] if np.isfinite(loss) else recent
            gradient = None if entry.outcome is None else entry.outcome.gradient
            skipped += gradient is None or not bool(np.isfinite(gradient).all())
            mean = float(np.mean(recent)) if recent else np.nan
            row = (trial.number, len(checks), spent[trial.number], _n_examples(trial), number(loss), number(mean))
            for name, value in zip(names, row, strict=True):
                steps[name].append(value)
        elif trial.origin is Origin.SEARCH and _follows_a_step(study, trial):
            known = entry.losses if objective.n_objectives == 1 else None
            score = None if known is None else number(objective.score_of(known))
            checks.append({"number": trial.number, "evaluations": spent[trial.number], "score": score})
            recent = []
    if not steps["number"]:
        return None
    return {"steps": steps, "checks": checks, "skipped": skipped, "smoothed": SMOOTHED}


def step_loss(entry: Entry) -> float:
    """Return the mean loss that a gradient was taken of; NaN where no example had one."""
    scores = {} if entry.outcome is None else entry.outcome.scores
    weights = entry.trial.gradient or {}
    known = [(weights[task], float(found.values.mean())) for task, found in scores.items() if weights.get(task)]
    whole = sum(weight for weight, _ in known)
    return sum(weight * loss for weight, loss in known) / whole if whole > 0 else np.nan


def part_way(study: Study, objective: Objective, waiting: Collection[int] = ()) -> dict[str, Any] | None:
    """Return which candidates were not scored any further, and after how many examples; None without any part.

    waiting: first parts of the candidates whose next part has still to be asked for.

    candidates: number of those that began with a part, of which `in_full` were scored on all examples. stopped: by
    number of examples. saved: the evaluations that the rest of them would have cost. numbers: the first part of each
    candidate that was stopped, with the share of the examples that it was scored on.
    """
    first: dict[int, int] = {}
    scored: dict[int, int] = {}
    whole: set[int] = set()
    failed: set[int] = set()
    for entry in _ended(study):
        trial = entry.trial
        if trial.merge is not None or trial.gradient is not None or not (trial.is_part or trial.extends is not None):
            continue  # a baseline, too, is a part after examples were added
        begun = first[trial.number] = trial.number if trial.extends is None else first[trial.extends]
        scored[begun] = scored.get(begun, 0) + _n_examples(trial)
        if entry.outcome is None or entry.outcome.failure is not None:
            failed.add(begun)
        elif not trial.is_part:
            whole.add(begun)
    if not scored:
        return None
    running = {first[trial.extends] for trial in study.unfinished if trial.split == "search" and trial.extends in first}
    waiting = running | scored.keys() & set(waiting)
    total = max(1, _total(study, objective))
    stopped = [n for n in scored if n not in whole and n not in failed and n not in waiting]
    counts = Counter(scored[n] for n in stopped)
    return {
        "examples": total,
        "candidates": len(scored),
        "in_full": len(whole),
        "waiting": len(waiting),
        "stopped": sum(counts.values()),
        "by_examples": [{"examples": n, "share": n / total, "stopped": counts[n]} for n in sorted(counts)],
        "saved": sum(1 - scored[n] / total for n in stopped),
        "numbers": [{"number": n, "share": scored[n] / total} for n in stopped],
    }


def _ended(study: Study) -> Iterator[Entry]:
    return (entry for entry in study.ended if entry.trial.split == "search")


def _total(study: Study, objective: Objective) -> int:
    examples = SearchExamples.of_study(study, objective.weights)
    return 0 if examples is None else examples.total


def _n_examples(trial: Trial) -> int:
    return sum(map(len, (trial.examples or {}).values()))


def _follows_a_step(study: Study, trial: Trial) -> bool:
    """Whether the trial before was a gradient: steps of a descent follow each other, and its end is scored next."""
    before = study.parts.get(trial.number - 1)
    return before is not None and before.trial.gradient is not None
