from dataclasses import replace

import numpy as np
import pytest
import torch

from evomerge.merging.baselines import baselines, same_weights
from evomerge.recipe import Input, Merge, Recipe
from search_spaces.base import CoefficientTable
from tests.contracts.merge_method import NAMES, make_engine, random_models


def recipe(n_inputs: int) -> Recipe:
    return Recipe(
        Input("base", "base"), tuple(Input(n, n) for n in NAMES[:n_inputs]), "ties", {"normalize": False}, "float32"
    )


def labels(n_inputs: int) -> list[str]:
    return [label for label, _ in baselines(recipe(n_inputs), ("x",))]


GRID = [f"task_arithmetic:{scale}" for scale in ("0.2", "0.4", "0.6", "0.8", "1")]


def test_labels_in_order_without_duplicates() -> None:
    assert labels(3) == ["base", "parent:math", "parent:code", "parent:chat", "uniform", *GRID]
    assert labels(1) == ["base", "parent:math", *GRID[:4]]
    assert labels(5)[7:] == GRID[1:]  # 0.2 of five experts is their average


def test_weights() -> None:
    base, *inputs = random_models(0, 3, torch.bfloat16)
    engine = make_engine({"x": base}, [{"x": tensor} for tensor in inputs])
    made = {label: dict(engine.stream(merge))["x"] for label, merge in baselines(recipe(3), ("x",))}
    assert torch.equal(made["base"], base)
    for name, tensor in zip(NAMES, inputs, strict=False):
        assert torch.equal(made[f"parent:{name}"], tensor)
    wide = [tensor.double() for tensor in (base, *inputs)]
    mean = sum(wide[1:], torch.zeros_like(wide[0])) / 3
    torch.testing.assert_close(made["uniform"].double(), mean, rtol=2**-8, atol=0)
    added = wide[0] + 0.4 * (sum(wide[1:], torch.zeros_like(wide[0])) - 3 * wide[0])
    torch.testing.assert_close(made["task_arithmetic:0.4"].double(), added, rtol=2**-8, atol=1e-6)


def test_recipes_keep_models_and_dtype() -> None:
    for _, merge in baselines(recipe(2), ("x", "y")):
        assert merge.recipe.dtype == "float32"
        assert merge.recipe.inputs == recipe(2).inputs
        assert merge.recipe.options == {}
        assert dict(merge.table.groups) == {"all": ("x", "y")}
        assert np.shape(merge.table.values["weight"]) == (1, 2)


@pytest.mark.parametrize(
    ("method", "options", "values", "label", "same"),
    [
        ("linear", {}, {"weight": [1, 0]}, "parent:math", True),
        ("linear", {"normalize": False}, {"weight": [1, 0]}, "parent:math", True),
        ("linear", {}, {"weight": [1, 0]}, "parent:code", False),
        ("linear", {}, {"weight": [0, 0]}, "base", False),  # refused: weights that add up to nothing
        ("linear", {}, {"weight": [0.4, 0.4]}, "task_arithmetic:0.4", False),
        ("task_arithmetic", {}, {"weight": [0.4, 0.4]}, "task_arithmetic:0.4", True),
        ("ties", {}, {"weight": [1, 0], "density": [1, 1]}, "parent:math", True),
        ("ties", {}, {"weight": [1, 0], "density": [0.5, 0.5]}, "parent:math", False),
        ("iso_c", {}, {"weight": [1, 0]}, "parent:math", False),  # another method for matrices alone
        # The same where the inputs are no adapters, and another merge where they are.
        ("lora_linear", {}, {"weight": [0.4, 0.4]}, "task_arithmetic:0.4", False),
        ("fisher", {}, {"weight": [1, 0]}, "parent:math", False),  # without statistics nothing can be tried
    ],
)
def test_which_merges_are_one_model(
    method: str, options: dict[str, bool], values: dict[str, list[float]], label: str, same: bool
) -> None:
    names = ("matrix", "vector", "another matrix")
    other = dict(baselines(recipe(2), names))[label]
    table = CoefficientTable({"all": names}, {name: np.array([value]) for name, value in values.items()})
    merge = Merge(replace(recipe(2), method=method, options=options), table)
    assert same_weights(merge, other, {"matrix": 2, "vector": 1, "another matrix": 2}) is same
