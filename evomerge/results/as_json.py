"""Results as plain data, as printed by `--json` and embedded in the report page. Unknown values are null.

Keys are added, never renamed.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from evaluators.base import Scores
from evomerge.results.front import Front
from evomerge.results.predicted import Predicted
from evomerge.results.progress import SearchFront
from evomerge.results.report_only import ReportedTask
from evomerge.results.result import Selection
from evomerge.results.scored import ScoredModel
from evomerge.results.verdict import Claim
from evomerge.statistics import Difference, Estimate, Interval, Optimism


def number(value: float) -> float | None:
    """A finite number, or null."""
    return float(value) if math.isfinite(value) else None


def estimate_to_dict(value: Estimate) -> dict[str, Any]:
    """A mean with its standard error and 95 % interval, of a paired difference also its p."""
    known = math.isfinite(value.standard_error) and math.isfinite(value.half_width)
    data = {
        "mean": number(value.mean),
        "standard_error": value.standard_error if known else None,
        "interval": list(value.interval) if known else None,
        "n_examples": value.n_examples,
    }
    return data | {"p": value.p} if isinstance(value, Difference) else data


def estimate_of(data: Mapping[str, Any], mean: str = "mean") -> Estimate:
    """The estimate that was written. mean: the key of its mean."""
    error = math.inf if data["standard_error"] is None else data["standard_error"]
    bounds = None if data["interval"] is None else tuple(data["interval"])
    return Estimate(data[mean], error, data.get("n_examples", 0), bounds=bounds)


def interval_to_dict(value: Interval | None) -> dict[str, Any] | None:
    """A measured value with its 95 % interval."""
    if value is None:
        return None
    return {"value": number(value.value), "low": number(value.low), "high": number(value.high)}


def estimates_to_dict(values: Mapping[str, Estimate]) -> dict[str, Any]:
    """Estimates by task."""
    return {task: estimate_to_dict(value) for task, value in values.items()}


def so_far_to_dict(model: ScoredModel, *, gains: bool = False) -> dict[str, Any]:
    """A model as a running search shows it; no score where every task is an objective of its own.

    gains: tell how far it is ahead of the best parents.
    """
    hidden = model.objective.pareto
    score = estimate_to_dict(model.score)
    data = {
        "label": model.trial.label,
        "number": model.number,
        "name": model.name,
        **_method(model),
        "score": None if hidden else score["mean"],
        "standard_error": None if hidden else score["standard_error"],
        "interval": None if hidden else score["interval"],
        "tasks": dict(model.means),
    }
    data |= {"decisive": dict(model.decisive)} if model.decisive else {}
    ahead = model.gains if gains and model.objective.needs_parents else {}
    return data | ({"ahead_of_best_parent": dict(ahead)} if ahead else {})


def card_row(split: str, score: Estimate | None, tasks: Mapping[str, Estimate | Scores]) -> dict[str, Any]:
    """A row of scores of a manifest or model card. score: None where the tasks do not add up to one."""
    row: dict[str, Any] = {"split": split}
    if score is not None:
        row |= {"examples": score.n_examples, "score": score.mean}
        if score.has_interval:
            row["low"], row["high"] = score.interval
    return row | {task: value.mean for task, value in tasks.items()}


def search_front_to_dict(front: SearchFront) -> dict[str, Any]:
    """The front of a Pareto search while it runs."""
    best = {
        task: {
            "number": model.number,
            "score": model.means[task],
            "name": model.name,
            "ahead": model.gains.get(task),
        }
        for task, model in front.best.items()
    }
    return {
        "size": len(front.candidates),
        "candidates": front.n_candidates,
        "hypervolume": front.hypervolume,
        "best": best,
    }


def model_to_dict(front: Front, model: ScoredModel) -> dict[str, Any]:
    """What a model scored on the split of a front, and where it stands."""
    return {
        "score": estimate_to_dict(model.score),
        "tasks": estimates_to_dict(model.tasks),
        "decisive": dict(model.decisive),
        "on_front": model.label in front.on_front,
        "probability": front.probability[model.label],
        "shrunk": front.shrunk.get(model.label),
    }


def identity_to_dict(model: ScoredModel) -> dict[str, Any]:
    """Which model it is."""
    return {"label": model.label, "number": model.number, "kind": model.kind, **_method(model)}


def _method(model: ScoredModel) -> dict[str, str]:
    """Which method it is by, where a search chooses from several."""
    return {} if model.method is None else {"method": model.method}


def models_to_list(front: Front) -> list[dict[str, Any]]:
    """All models of a split, those on the front first."""
    return [identity_to_dict(model) | model_to_dict(front, model) for model in front.points]


def front_to_dict(front: Front) -> dict[str, Any]:
    """Return the data of a split as a whole."""
    return {
        "split": front.split,
        "tasks": {task: "larger" if front.objective.sign(task) > 0 else "smaller" for task in front.tasks},
        "smooth": dict(front.objective.smooth),
        "examples": dict(front.examples),
        "choices": [model.label for model in front.choices],
        **{name: point.label if (point := front.suggested.get(name)) else None for name in ("preferred", "knee")},
        "reference": None if front.volume_reference is None else dict(front.volume_reference),
        "hypervolume": interval_to_dict(front.hypervolume),
        "hypervolume_of_models": interval_to_dict(front.of_models),
        "optimism": optimism_to_dict(front.optimism),
        "left_out": front.left_out,
        "pending": front.pending,
    }


def hypervolume_to_dict(front: Front) -> dict[str, Any] | None:
    """The hypervolume of all points and of the models alone, and the reference; None without any of the models."""
    if front.hypervolume is None or front.of_models is None or front.volume_reference is None:
        return None
    return {
        "of_all": interval_to_dict(front.hypervolume),
        "of_models": interval_to_dict(front.of_models),
        "reference": dict(front.volume_reference),
    }


def optimism_to_dict(found: Optimism | None) -> dict[str, Any] | None:
    """Return the selection optimism of a search."""
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


def predicted_to_dict(point: Predicted, *, coordinates: bool = True) -> dict[str, Any]:
    """A prediction, with the measured point that is nearest. number: what `evomerge pick --predicted` takes."""
    return {
        **({"x": [float(value) for value in point.x]} if coordinates else {}),
        "label": f"predicted {point.number}",
        "number": point.number,
        "tasks": estimates_to_dict(point.tasks),
        "beaten": point.dominated,
        "nearest": point.nearest.label,
        "distance": point.distance,
    }


def claims_to_list(claims: Iterable[Claim]) -> list[dict[str, Any]]:
    """The winner against the best parent of every task."""
    return [
        {"task": claim.task, "best_parent": claim.parent, **estimate_to_dict(claim.gain), "p_holm": claim.p}
        for claim in claims
    ]


def report_only_to_dict(found: Iterable[ReportedTask]) -> dict[str, Any]:
    """Tasks that are only reported, if any: the means of all models, and the winner against the best parent."""
    rows = [
        {
            "task": each.task,
            "better": "smaller" if each.lower_is_better else "larger",
            "models": estimates_to_dict(each.estimates),
            "best_parent": each.parent,
            "winner_ahead": None if each.lead is None else estimate_to_dict(each.lead),
        }
        for each in found
    ]
    return {"report_only": rows} if rows else {}


def selection_to_dict(selection: Selection) -> dict[str, Any]:
    """The result of a study."""
    return {
        "winner": selection.winner.label,
        "verdict": selection.verdict,
        "baseline": selection.baseline,
        "range_ends": [asdict(end) for end in selection.range_ends],
        "looks_at_report": selection.looks,
        "keeps": selection.keeps,
        "front": list(selection.front),
        "scale": {task: list(ends) for task, ends in selection.scale.items()},
        "standings": [_standing(model, selection) for model in selection.models],
        "by_task": claims_to_list(selection.claims),
        **report_only_to_dict(selection.report_only),
        "scored_twice": None if selection.repeat is None else asdict(selection.repeat),
    }


def _standing(model: ScoredModel, selection: Selection) -> dict[str, Any]:
    lead = selection.leads.get(model.label)
    return {
        "label": model.label,
        **estimate_to_dict(model.score),
        "tasks": estimates_to_dict(model.tasks),
        "winner_ahead": None if lead is None else estimate_to_dict(lead),
        "flips": [asdict(each) for each in selection.flips.get(model.label, ())],
    }
