"""Sums and merges of tensors large enough for torch to divide among its threads: the bits stay the same."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from evomerge.merging.engine import MergeEngine
from evomerge.merging.tiles import TILE, total
from evomerge.recipe import Input, Merge, Recipe
from search_spaces.base import CoefficientTable

SIZE = 2 * TILE + 12345


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


class Model:
    """One large tensor of keyed random numbers."""

    names = ("t",)

    def __init__(self, seed: int) -> None:
        numbers = np.random.default_rng(seed).normal(size=SIZE)
        self._tensor = torch.tensor(numbers, dtype=torch.float32)

    def mergeable(self, name: str) -> bool:
        return True

    def tensor(self, name: str) -> torch.Tensor:
        return self._tensor


def test_a_sum_does_not_depend_on_threads() -> None:
    values = Model(0).tensor("t")[:TILE] * 1e3
    sums = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        sums.append(total(values))
    assert len(set(sums)) == 1
    assert sums[0] == pytest.approx(float(values.numpy().astype(np.float64).sum()), rel=1e-12)


@pytest.mark.parametrize(
    ("method", "values", "options"),
    [
        ("slerp", {"t": [[0.3]]}, {}),
        ("dare_linear", {"weight": [[0.7]], "density": [[0.4]]}, {"rescale": "mergekit"}),
        ("ties", {"weight": [[0.7]], "density": [[0.3]]}, {}),
    ],
)
def test_a_large_merge_does_not_depend_on_threads(
    method: str, values: dict[str, list[list[float]]], options: dict[str, str]
) -> None:
    recipe = Recipe(Input("base", "base"), (Input("a", "a"),), method, options)
    table = CoefficientTable({"all": ("*",)}, {name: np.array(rows) for name, rows in values.items()})
    merged = []
    for threads in (1, 2, 3):
        engine = MergeEngine(Model(1), [Model(2)], names=("a",), threads=threads)
        merged.append(dict(engine.stream(Merge(recipe, table, seed=4)))["t"])
    assert torch.equal(merged[0], merged[1])
    assert torch.equal(merged[0], merged[2])


def test_the_caller_keeps_its_threads() -> None:
    torch.set_num_threads(1)
    engine = MergeEngine(Model(1), [Model(2)], names=("a",), threads=2)
    table = CoefficientTable({"all": ("*",)}, {"weight": np.array([[0.5]])})
    recipe = Recipe(Input("base", "base"), (Input("a", "a"),), "task_arithmetic")
    list(engine.stream(Merge(recipe, table)))
    assert torch.get_num_threads() == 1
