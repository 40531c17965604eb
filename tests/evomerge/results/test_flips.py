"""Answers that a merge loses and gains against the best parent of every task."""

from dataclasses import replace

import numpy as np

from evaluators.base import Scores
from evomerge.objective import Objective
from evomerge.results.flips import Flips, flips, flips_sentence, share_lost
from evomerge.results.scored import ScoredModel
from tests.evomerge.results.models import scored_models

OBJECTIVE = Objective({"add": 1.0, "log": 1.0, "size": 1.0}, frozenset({"size"}), whole_model=frozenset({"size"}))


def model(label: str, add: list[float], log: list[float]) -> ScoredModel:
    (found,) = scored_models(OBJECTIVE, {label: {"add": 0.0, "log": 0.0, "size": 1.0}}, n_examples=1)
    size = Scores(("whole",), np.array([1.0]))
    scores = {
        task: Scores(tuple(f"{n:016x}" for n in range(4)), np.array(v)) for task, v in [("add", add), ("log", log)]
    }
    return replace(found, scores={**scores, "size": size})


MERGE = model("trial:4", [1, 0, 0, 1], [0.5, 0.5, 0.2, 1])
MATHS, OTHER = model("parent:a", [1, 1, 1, 0], [1, 0, 0, 1]), model("parent:b", [0, 0, 0, 0], [1, 1, 1, 1])


def test_lost_and_gained_answers_are_counted_where_answers_are_right_or_wrong() -> None:
    found = flips(MERGE, {"add": MATHS, "log": MATHS, "size": OTHER})
    assert found == (Flips("add", "parent:a", lost=2, gained=1, n_examples=4),)
    assert share_lost(found) == 0.5


def test_copies_of_an_example_count_once() -> None:
    ids = ("0123456789abcdef", "0123456789abcdef#1", "fedcba9876543210")
    mine, theirs = (
        replace(model, scores={**model.scores, "add": Scores(ids, np.array(values))})
        for model, values in ((MERGE, [0.0, 0.0, 1.0]), (MATHS, [1.0, 1.0, 1.0]))
    )
    assert flips(mine, {"add": theirs}) == (Flips("add", "parent:a", 1, 0, 2),)


def test_a_parent_loses_nothing_against_itself() -> None:
    assert flips(MATHS, {"add": MATHS}) == (Flips("add", "parent:a", 0, 0, 4),)


def test_nothing_is_said_without_right_and_wrong_answers() -> None:
    found = flips(MERGE, {"log": OTHER})
    assert (found, share_lost(found), flips_sentence("trial:4", found)) == ((), None, "")


def test_the_sentence_names_every_task() -> None:
    found = (Flips("add", "parent:a", 2, 1, 40), Flips("sort", "parent:b", 0, 9, 50))
    assert flips_sentence("trial:4", found) == (
        "On held-out examples, trial:4 gets wrong what the best parent on the task gets right: "
        "add 2 of 40 (and 1 the other way round), sort 0 of 50 (and 9 the other way round)."
    )
