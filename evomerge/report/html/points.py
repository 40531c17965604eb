"""Every model of a study with its scores on the three splits."""

from collections.abc import Mapping, Sequence
from typing import Any

from evomerge.report.html.numbers import by_label, estimate_data, interval_data
from evomerge.results.front import Front, Point
from evomerge.results.predicted import Predicted, for_table


def points_data(fronts: Mapping[str, Front]) -> list[dict[str, Any]]:
    """One item per model, those on the search front first. fronts: split -> front."""
    found: dict[str, dict[str, Any]] = {}
    for split, front in fronts.items():
        for label, point in by_label(front).items():
            item = {"label": label, "number": point.number, "kind": point.kind, "splits": {}}
            found.setdefault(label, item)["splits"][split] = _on_split(point)
    return list(found.values())


def front_data(front: Front) -> dict[str, Any]:
    """What a split says as a whole: how many points, hypervolume with its reference, examples."""
    return {
        "points": len(by_label(front)),
        "examples": dict(front.examples),
        "choices": [point.label for point in front.choices],
        "preferred": None if front.preferred is None else front.preferred.label,
        "knee": None if front.knee is None else front.knee.label,
        "reference": None if front.volume_reference is None else dict(front.volume_reference),
        "hypervolume": interval_data(front.hypervolume),
        "hypervolume_of_models": interval_data(front.of_models),
        "left_out": front.left_out,
    }


def predictions_data(predictions: Sequence[Predicted]) -> list[dict[str, Any]]:
    """Points that the optimizer predicts beyond what was measured, with the nearest one that was.

    number: what `evomerge pick --predicted` takes. listed: whether the table shows it; the plot has all.
    """
    listed = {point.number for point in for_table(predictions)}
    return [
        {
            "label": f"predicted {prediction.number}",
            "number": prediction.number,
            "tasks": {task: estimate_data(value) for task, value in prediction.tasks.items()},
            "nearest": prediction.nearest.label,
            "distance": prediction.distance,
            "beaten": prediction.beaten,
            "listed": prediction.number in listed,
        }
        for prediction in predictions
    ]


def _on_split(point: Point) -> dict[str, Any]:
    return {
        "score": estimate_data(point.score),
        "tasks": {task: estimate_data(value) for task, value in point.tasks.items()},
        "on_front": point.on_front,
        "p_front": point.probability,
        "shrunk": point.shrunk,
    }
