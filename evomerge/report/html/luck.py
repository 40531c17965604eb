"""How far the numbers can be believed: the winner's curse, who else may be best, power, noise of the evaluation."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from evomerge.objective.score import DisplayScore, clusters
from evomerge.report.html.numbers import best_model, by_label, difference_data, estimate_data, number
from evomerge.results.front import Front, Point
from evomerge.statistics import bootstrap_means, indifference_set, power, probability_best, rerun

#: The difference for which the number of examples is told beside the one that was found: one point in a hundred.
POINT = 0.01


def luck(sticks: Mapping[str, DisplayScore], fronts: Mapping[str, Front], winner: str | None) -> dict[str, Any]:
    """All of it as plain data; a part that the study cannot say is null or empty."""
    return {
        "optimism": _optimism(fronts["search"]),
        "finalists": _finalists(sticks["select"], fronts, winner),
        "power": _power(sticks["report"], fronts["report"], winner),
        "reruns": _reruns(fronts["select"]),
    }


def _optimism(front: Front) -> dict[str, Any] | None:
    found = front.optimism
    if found is None:
        return None
    return {
        "candidates": len(found.measured),
        "expected": found.expected,
        "reliability": found.reliability,
        "noise": float(np.sqrt(found.noise)),
        "spread": float(np.sqrt(found.spread)),
        "disagreement": found.disagreement,
    }


def _finalists(stick: DisplayScore, fronts: Mapping[str, Front], winner: str | None) -> list[dict[str, Any]]:
    """The merges that met on select, best first: what they scored on each split, and how often each would be best."""
    merges = [point for point in by_label(fronts["select"]).values() if point.is_merge]
    if not merges:
        return []
    parts = [stick.contributions(point.scores) for point in merges]
    values = {task: np.stack([part[task] for part in parts]) for task in parts[0]}
    repeats = clusters(merges[0].scores)
    means = bootstrap_means(values, clusters=repeats)
    chances, may_be_best = probability_best(means), indifference_set(values, means, clusters=repeats)
    searched, reported = by_label(fronts["search"]), by_label(fronts["report"])
    rows = [
        {
            "label": point.label,
            "kind": point.kind,
            "winner": point.label == winner,
            "search": _score(searched.get(point.label)),
            "shrunk": searched[point.label].shrunk if point.label in searched else None,
            "select": estimate_data(point.score),
            "report": _score(reported.get(point.label)),
            "p_best": float(chance),
            "may_be_best": bool(may_be),
        }
        for point, chance, may_be in zip(merges, chances, may_be_best, strict=True)
    ]
    return sorted(rows, key=lambda row: -row["select"]["mean"])


def _power(stick: DisplayScore, front: Front, winner: str | None) -> dict[str, Any] | None:
    """What the report examples can show about the winner and the best parent."""
    rival, points = best_model(front), by_label(front)
    if rival is None or winner not in points:
        return None
    if not stick.sizes:
        return None
    mine, its = (stick.sampled(point.scores) for point in (points[winner], rival))
    found = power(mine, its, sizes=stick.sizes, clusters=clusters(rival.scores))
    return {
        "rival": rival.label,
        "examples": found.n_examples,
        "disagreement": found.disagreement,
        "detectable": number(found.detectable),
        "point": POINT,
        "needed": found.needed(POINT) if math.isfinite(found.variance) else None,
    }


def _reruns(front: Front) -> list[dict[str, Any]]:
    """What changed where a model was scored twice on the same examples: the tasks that did, each in its own unit."""
    points, found = by_label(front), []
    for label, again in front.reruns.items():
        if label not in points:
            continue
        first = points[label].scores
        pairs = {task: ({task: first[task].values}, {task: again[task].values}) for task in front.tasks}
        results = {task: rerun(*pair, clusters=clusters({task: first[task]})) for task, pair in pairs.items()}
        tasks = [
            {"task": task, "changed": result.changed, "noise": result.standard_error}
            | difference_data(result.difference)
            | ({"low": None, "high": None, "p": None} if task in front.objective.whole_model else {})
            for task, result in results.items()
            if result.changed
        ]
        found.append({"label": label, "tasks": tasks})
    return found


def _score(point: Point | None) -> dict[str, Any] | None:
    return None if point is None else estimate_data(point.score)
