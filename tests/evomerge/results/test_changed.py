"""Two models example by example: which examples are listed, in which direction, and in which order."""

from dataclasses import replace

import numpy as np

from evaluators.base import Scores
from evomerge.objective import Objective
from evomerge.results.changed import changed
from tests.evomerge.results.models import scored_models

IDS = ("a", "b", "c", "d")


def test_examples_both_ways_with_the_largest_differences_first() -> None:
    objective = Objective({"math": 1.0, "text": 1.0, "size": 1.0}, frozenset({"text"}), whole_model=frozenset({"size"}))
    rows = {"trial:1": dict.fromkeys(objective.weights, 0.0), "parent:x": dict.fromkeys(objective.weights, 0.0)}
    mine, theirs = scored_models(objective, rows, n_examples=4)
    values = {"math": ([1, 0, 1, 1], [1, 1, 0, 0]), "text": ([9, 5, 7, 7], [8, 9, 7, 5]), "size": ([4] * 4, [5] * 4)}
    first, second = (
        replace(model, scores={task: Scores(IDS, np.array(pair[n], float)) for task, pair in values.items()})
        for n, model in enumerate((mine, theirs))
    )
    found = changed(first, second)
    assert (found["math"].better, found["math"].worse) == (("c", "d"), ("b",))
    assert (found["math"].means, found["math"].gain.mean) == ((0.75, 0.5), 0.25)
    # Less is better: 5 instead of 9 is a gain of 4; 7 instead of 5 loses more than 9 instead of 8.
    assert (found["text"].better, found["text"].worse) == (("b",), ("d", "a"))
    assert found["text"].gain.mean == 0.25
    assert found["text"].values["b"] == (5, 9)
    assert (found["size"].better, found["size"].worse) == ((), ())
