"""Sampling error of the results: selection optimism, indifference set, power, and evaluation noise."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from evomerge.objective.score import clusters
from evomerge.results.as_json import estimate_to_dict, number, optimism_to_dict
from evomerge.results.front import Front
from evomerge.results.scored import ScoredModel
from evomerge.results.signal import signals_to_list, weak
from evomerge.statistics import bootstrap_means, indifference_set, power, probability_best, rerun

#: The difference for which the number of examples is told beside the one that was found: one point in a hundred.
POINT = 0.01


def sampling_error(fronts: Mapping[str, Front], winner: str | None) -> dict[str, Any]:
    """All of it as plain data; a part that the study cannot say is null or empty. fronts: split -> front."""
    searched = fronts["search"]
    fixed = [point.scores for point in searched.points if not point.is_candidate]
    signal = signals_to_list(searched.objective, fixed)
    return {
        "optimism": optimism_to_dict(fronts["search"].optimism),
        "finalists": _finalists(fronts, winner),
        "power": _power(fronts["report"], winner),
        "reruns": _reruns(fronts["select"]),
        "signal": signal,
        "weak": weak(signal),
    }


def _finalists(fronts: Mapping[str, Front], winner: str | None) -> list[dict[str, Any]]:
    """The merges that met on select, best first: what they scored on each split, and how often each would be best."""
    merges = [point for point in fronts["select"].points if not point.is_parent]
    if not merges:
        return []
    display = fronts["select"].reference.display
    parts = [display.contributions(point.scores) for point in merges]
    values = {task: np.stack([part[task] for part in parts]) for task in parts[0]}
    repeats = clusters(merges[0].scores)
    means = bootstrap_means(values, clusters=repeats)
    chances, may_be_best = probability_best(means), indifference_set(values, means, clusters=repeats)
    searched, reported = fronts["search"], fronts["report"].by_label
    rows = [
        {
            "label": point.label,
            "kind": point.kind,
            "winner": point.label == winner,
            "search": _score(searched.by_label.get(point.label)),
            "shrunk": searched.shrunk.get(point.label),
            "select": estimate_to_dict(point.score),
            "report": _score(reported.get(point.label)),
            "p_best": float(chance),
            "may_be_best": bool(may_be),
        }
        for point, chance, may_be in zip(merges, chances, may_be_best, strict=True)
    ]
    return sorted(rows, key=lambda row: -row["select"]["mean"])


def _power(front: Front, winner: str | None) -> dict[str, Any] | None:
    """Compute the power of the report split to tell the winner from the best parent."""
    rival, display = front.best_parent, front.reference.display
    if rival is None or winner is None or winner not in front.by_label or not display.sizes:
        return None
    mine, its = (display.sampled(point.scores) for point in (front.by_label[winner], rival))
    found = power(mine, its, sizes=display.sizes, clusters=clusters(rival.scores))
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
    found = []
    for label, again in front.reruns.items():
        if label not in front.by_label:
            continue
        first = front.by_label[label].scores
        pairs = {task: ({task: first[task].values}, {task: again[task].values}) for task in front.tasks}
        results = {task: rerun(*pair, clusters=clusters({task: first[task]})) for task, pair in pairs.items()}
        tasks = [
            {"task": task, "changed": result.changed, "noise": result.standard_error}
            | estimate_to_dict(result.difference)
            | ({"p": None} if task in front.objective.whole_model else {})
            for task, result in results.items()
            if result.changed
        ]
        found.append({"label": label, "tasks": tasks})
    return found


def _score(point: ScoredModel | None) -> dict[str, Any] | None:
    return None if point is None else estimate_to_dict(point.score)
