"""The model card: says each thing once, and the verdict above the numbers."""

import numpy as np

from evomerge.merging.output.card import model_card
from evomerge.merging.output.manifest import Manifest
from evomerge.recipe import Input, Merge, Recipe
from search_spaces.base import CoefficientTable

GROUPS = {"block.0": ("a",), "block.1": ("b",)}


def merge(**values: object) -> Merge:
    recipe = Recipe(Input("base", "b"), (Input("add", "x"), Input("sort", "y")), "ties")
    return Merge(recipe, CoefficientTable(GROUPS, {name: np.array(rows) for name, rows in values.items()}))


def card(merged: Merge, sources: dict[str, str] | None = None, scores: dict[str, object] | None = None) -> str:
    named = sources or {"base": "base", "add": "add", "sort": "sort"}
    inputs = {name: {"source": source, "revision": None} for name, source in named.items()}
    return model_card(merged, "merged", Manifest("", 0, {}, inputs, {}), scores)


def test_a_parameter_that_is_the_same_everywhere_is_one_sentence() -> None:
    text = card(merge(weight=[[0.25, 0.5], [1.0, -0.5]], scale=[[1.0], [1.0]]))
    assert "`scale` is 1 for all tensors and models." in text
    assert "| scale |" not in text
    assert "| block.1 | weight | 1 | -0.5 |" in text
    changed = card(merge(weight=[[0.25, 0.5], [1.0, -0.5]], scale=[[1.0], [0.9]]))
    assert "| block.1 | scale | 0.9 | 0.9 |" in changed
    assert "`scale` is" not in changed


def test_one_weight_for_everything_needs_no_table() -> None:
    text = card(merge(weight=[[0.2, 0.2], [0.2, 0.2]]))
    assert "`weight` is 0.2 for all tensors and models." in text
    assert "| tensors |" not in text


def test_origins_are_listed_unless_they_repeat_the_names() -> None:
    merged = merge(weight=[[0.25, 0.5], [1.0, -0.5]])
    assert "The base model is `base`; the models merged into it are `add`, `sort`." in card(merged)
    assert "| from |" not in card(merged)
    assert "| `base` | `lab/model` |" in card(merged, {"base": "lab/model", "add": "add", "sort": "sort"})


def test_ends_of_intervals_are_named_as_such() -> None:
    row = {"score": 0.75, "low": 0.7, "high": 0.8, "winner minus this": 0.1, "from": 0.05, "to": 0.15}
    text = card(merge(weight=[[0.25, 0.5], [1.0, -0.5]]), scores={"trial:4": row})
    intervals = "| score | 95 % low | 95 % high | winner minus this | difference 95 % low | difference 95 % high |"
    assert intervals in text


def test_the_verdict_stands_above_the_scores_and_not_in_the_table() -> None:
    scores = {"verdict": "trial:4 beats the best parent.", "trial:4": {"score": 0.75}, "base": {"score": 0.5}}
    text = card(merge(weight=[[0.25, 0.5], [1.0, -0.5]]), scores=scores)
    before, _, after = text.partition("trial:4 beats the best parent.\n")
    assert before.rstrip().endswith("## Scores")
    assert "| trial:4 | 0.75 |" in after
    assert "| verdict |" not in text
