"""Baselines: the merges that every study tries first, so that a search has something to beat."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from evomerge.merging.engine import MergeEngine, MergeError
from evomerge.merging.method import MethodError
from evomerge.recipe import Merge, Recipe
from search_spaces.base import CoefficientTable, FloatArray

#: Scales of the task-arithmetic grid, the same for every expert. https://arxiv.org/abs/2212.04089
SCALES = (0.2, 0.4, 0.6, 0.8, 1.0)


def baselines(recipe: Recipe, names: tuple[str, ...]) -> list[tuple[str, Merge]]:
    """Label and merge: the base, every expert, their uniform average, a grid of task arithmetic.

    names: the mergeable tensors. A merge that repeats another (all of it, for one expert) is left out.
    """
    n_inputs = len(recipe.inputs)
    task_arithmetic = replace(recipe, method="task_arithmetic", options={})
    made = [("base", _merge(task_arithmetic, names, np.zeros(n_inputs)))]
    for model, weight in zip(recipe.inputs, np.eye(n_inputs), strict=True):
        made.append((f"parent:{model.name}", _merge(task_arithmetic, names, weight)))
    if n_inputs > 1:
        linear = replace(recipe, method="linear", options={})
        made.append(("uniform", _merge(linear, names, np.full(n_inputs, 1 / n_inputs))))
    grid = [
        (f"task_arithmetic:{scale:g}", _merge(task_arithmetic, names, np.full(n_inputs, scale)))
        for scale in SCALES
        if abs(scale * n_inputs - 1.0) > 1e-9  # else it is the uniform average, or the only expert
    ]
    return made + grid


def _merge(recipe: Recipe, names: tuple[str, ...], weight: FloatArray) -> Merge:
    return Merge(recipe, CoefficientTable({"all": names}, {"weight": weight[None, :]}))


@dataclass(frozen=True)
class _Tensors:
    """Made-up weights."""

    tensors: Mapping[str, Tensor]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.tensors)

    def mergeable(self, name: str) -> bool:  # noqa: ARG002
        return True

    def tensor(self, name: str) -> Tensor:
        return self.tensors[name]


def same_weights(merge: Merge, other: Merge, dimensions: Mapping[str, int]) -> bool:
    """Whether two merges of the same models are one model, bit for bit: tried on small random weights.

    dimensions: tensor -> its number of dimensions, for all that the tables cover; one of a group with each number
    stands for all. False also where a method cannot be tried: it refuses its coefficients, or needs statistics.
    """
    if (merge.recipe, merge.seed) == (other.recipe, other.seed) and merge.table == other.table:
        return True
    random = torch.Generator().manual_seed(0)
    inputs = [model.name for model in merge.recipe.inputs]
    few = {(group, dimensions[name]): name for group, names in merge.table.groups.items() for name in names}
    models = [
        _Tensors({name: torch.randn((5, 7, 3, 2)[:count], generator=random) for (_, count), name in few.items()})
        for _ in range(len(inputs) + 1)
    ]
    engine = MergeEngine(models[0], models[1:], names=inputs)
    try:
        made = [engine.stream(replace(each, table=_of(each.table, tuple(few.values())))) for each in (merge, other)]
        return all(torch.equal(mine, its) for (_, mine), (_, its) in zip(*made, strict=True))
    except (MergeError, MethodError):
        return False


def _of(table: CoefficientTable, names: tuple[str, ...]) -> CoefficientTable:
    """The part of a table that these tensors need."""
    groups = {group: tuple(name for name in members if name in names) for group, members in table.groups.items()}
    return CoefficientTable(groups, table.values)
