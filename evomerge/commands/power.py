"""Statistical power: the smallest difference between two models detectable on the held-out examples."""

from collections.abc import Mapping
from itertools import combinations
from math import sqrt
from typing import Any

from evaluators.base import Scores
from evomerge.objective import Objective
from evomerge.objective.score import clusters, display_score
from evomerge.statistics import detectable, power

#: Assumed share of discordant examples while no two models have been scored.
DISAGREEMENT = 0.2
#: Differences, in the unit of the score, for which the required number of examples is reported.
WANTED = (0.01, 0.02, 0.05)


def detectable_differences(
    objective: Objective,
    examples: Mapping[str, Mapping[str, int]],
    scores: Mapping[str, Mapping[str, Scores]],
    source: str | None,
) -> dict[str, Any]:
    """Compute the smallest detectable differences on the report split, per task and for the score; null if unknown.

    scores: model -> task -> its scores on the search split; for fewer than two models, a share of discordant answers
    is assumed, and other values are unknown. source: description of these scores. Tasks with one value per model have
    no sampling error. A score over tasks of several units depends on the models compared, so its difference is unknown.
    """
    sampled = [task for task in objective.weights if task not in objective.whole_model]
    counts = {task: examples[task]["report"] for task in sampled}
    measured = list(scores.values()) if len(scores) > 1 else []
    variances = {task: _variance(objective, task, measured) for task in sampled}
    tasks = {task: None if (v := variances[task]) is None else detectable(v, counts[task]) for task in sampled}
    score = _detectable_score(objective, tasks) if _has_one_unit(objective, measured) else None
    total = sum(counts.values())
    needed = {} if score is None else {f"{wanted:g}": round(total * (score / wanted) ** 2) for wanted in WANTED}
    return {
        "split": "report",
        "examples": counts,
        "variance": variances,
        "source": source if measured else None,
        "detectable": {"score": score, **tasks},
        "examples_needed": needed,
        "whole_model": [task for task in objective.weights if task in objective.whole_model],
    }


def power_lines(shown: Mapping[str, Any]) -> list[str]:
    """Format the result of `detectable_differences` as lines of text."""
    if not shown["examples"]:
        return ["power: every task is one value per model without sampling error: any difference shows"]
    assumed = (
        f"assuming {100 * DISAGREEMENT:.0f} % discordant answers; --measure compares two models"
        if shown["source"] is None
        else f"from the differences between models: {shown['source']}"
    )
    least = shown["detectable"]["score"]
    what = "by task, in its unit" if least is None else f"{least:.2g}"
    lines = [f"power: smallest detectable improvement on the report split: {what} (80 % power, {assumed})"]
    lines += [
        f"  {task}: {_difference(shown, task)} ({count:,} distinct examples)"
        for task, count in shown["examples"].items()
    ]
    lines += [
        f"  {task}: one value per model, without sampling error: any difference shows" for task in shown["whole_model"]
    ]
    needed = ", ".join(f"{count:,} to detect {wanted}" for wanted, count in shown["examples_needed"].items())
    return [
        *lines,
        f"  examples on the report split, all tasks together: {sum(shown['examples'].values()):,} now; {needed}"
        if needed
        else "  detecting half such a difference takes four times as many examples",
    ]


def _variance(objective: Objective, task: str, measured: list[Mapping[str, Scores]]) -> float | None:
    """Return the variance of paired differences, averaged over all pairs of models; None if unknown."""
    if not measured:
        return None if task in objective.lower_is_better else DISAGREEMENT
    pairs = combinations([model[task] for model in measured], 2)
    spreads = [
        power({task: a.values}, {task: b.values}, sizes={task: 1.0}, clusters=clusters({task: a})).variance
        for a, b in pairs
    ]
    return sum(spreads) / len(spreads)


def _has_one_unit(objective: Objective, measured: list[Mapping[str, Scores]]) -> bool:
    """Return whether the score has one unit: that of all tasks, or one that the tasks are scaled to."""
    if measured or objective.kind in ("mean", "chebyshev"):
        return not display_score(objective, measured).scale
    return not objective.lower_is_better and not objective.whole_model


def _detectable_score(objective: Objective, tasks: Mapping[str, float | None]) -> float | None:
    shares = dict(zip(objective.weights, objective.shares, strict=True))
    parts = [None if gap is None else shares[task] * gap for task, gap in tasks.items()]
    known = [part for part in parts if part is not None]
    return sqrt(sum(part**2 for part in known)) if known and len(known) == len(parts) else None


def _difference(shown: Mapping[str, Any], task: str) -> str:
    least = shown["detectable"][task]
    return "unknown until models have been scored; --measure scores some" if least is None else f"{least:.2g}"
