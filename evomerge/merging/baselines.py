"""Baselines: the merges that every study tries first, so that a search has something to beat."""

from dataclasses import replace

import numpy as np

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
