"""Baselines: simple merges that every study scores first, for a search to beat."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from evomerge import plugins
from evomerge.merging.engine import MergeEngine, MergeError
from evomerge.merging.factors import Factors
from evomerge.merging.method import MergeMethod, MethodError
from evomerge.merging.models.hashing import Digest, digest_of
from evomerge.merging.models.model import Model
from evomerge.recipe import Merge, Recipe
from evomerge.trial import BASE, UNIFORM, Origin
from search_spaces.base import CoefficientTable, FloatArray

#: Scales of the task-arithmetic grid, equal for all experts. https://arxiv.org/abs/2212.04089
SCALES = (0.2, 0.4, 0.6, 0.8, 1.0)
#: Weights of magnitude 1 that differ by less are equal up to float32 rounding.
ROUNDING = 1e-5
#: Sizes of the made-up tensors, one per dimension.
_SHAPE = (5, 7, 3, 2)


def baselines(recipe: Recipe, names: tuple[str, ...]) -> list[tuple[str, Merge]]:
    """Return labels and merges: the base, every expert, their uniform average, and a grid of task arithmetic.

    names: the mergeable tensors. A merge that repeats another (all of it, for a single expert) is omitted.
    """
    n_inputs = len(recipe.inputs)
    task_arithmetic = replace(recipe, method="task_arithmetic", options={})
    made = [(BASE, _merge(task_arithmetic, names, np.zeros(n_inputs)))]
    for model, weight in zip(recipe.inputs, np.eye(n_inputs), strict=True):
        made.append((parent_label(recipe, model.name), _merge(task_arithmetic, names, weight)))
    if n_inputs > 1:
        linear = replace(recipe, method="linear", options={})
        made.append((UNIFORM, _merge(linear, names, np.full(n_inputs, 1 / n_inputs))))
    grid = [
        (f"task_arithmetic:{scale:g}", _merge(task_arithmetic, names, np.full(n_inputs, scale)))
        for scale in SCALES
        if abs(scale * n_inputs - 1.0) > 1e-9  # otherwise it is the uniform average, or the only expert
    ]
    return made + grid


def parent_label(recipe: Recipe, name: str) -> str:
    """Return the label of the trial that scores one of the recipe's models."""
    return BASE if name == recipe.base.name else Origin.PARENT.label(name)


def parent_alone(recipe: Recipe, name: str, names: tuple[str, ...]) -> Merge:
    """Return one of the models as a merge by itself, with its configuration, tokenizer and generation settings.

    The recipe's base is included with weight 0, or its first input if the model is the base.
    """
    inputs = {model.name: replace(model, statistics=None) for model in (recipe.base, *recipe.inputs)}
    own = inputs.pop(name)
    other = next(iter(inputs.values()))
    alone = replace(
        recipe, base=own, inputs=(other,), method="task_arithmetic", options={}, tokenizer=None, vocabulary=None
    )
    return _merge(alone, names, np.zeros(1))


def _merge(recipe: Recipe, names: tuple[str, ...], weight: FloatArray) -> Merge:
    return Merge(recipe, CoefficientTable({"all": names}, {"weight": weight[None, :]}))


def completed(table: CoefficientTable, recipe: Recipe) -> CoefficientTable | None:
    """Complete a table with the defaults of the recipe's method; None if the method lacks one of its parameters."""
    method: MergeMethod = plugins.load("merge method", recipe.method, MergeMethod)
    n_groups, n_inputs = len(table.groups), len(recipe.inputs)
    values = {p.name: np.full((n_groups, n_inputs if p.per_input else 1), p.default) for p in method.parameters}
    if not values.keys() >= table.values.keys():
        return None
    return CoefficientTable(table.groups, values | dict(table.values))


class _MadeUp(Model):
    """A small model of random weights; its matrices are `below` plus a low-rank change if `below` is given."""

    config = None
    path = Path()
    files = ()

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], random: torch.Generator, below: Model | None) -> None:
        self.names = tuple(shapes)
        self._tensors = {name: torch.randn(shape, generator=random) for name, shape in shapes.items()}
        self._factors: dict[str, Factors] = {}
        if below is not None:
            for name, (rows, columns) in ((name, shape) for name, shape in shapes.items() if len(shape) == 2):
                left, right = torch.randn(rows, 1, generator=random), torch.randn(1, columns, generator=random)
                self._factors[name] = Factors(left, right, 1.0)
                self._tensors[name] = below.tensor(name) + self._factors[name].delta()

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._tensors[name].shape)

    def dtype(self, name: str) -> torch.dtype:
        return self._tensors[name].dtype

    def tensor(self, name: str) -> Tensor:
        return self._tensors[name]

    def sha256(self, digest: Digest = digest_of) -> dict[str, str]:  # noqa: ARG002
        return {}

    def factors(self, name: str, base: Model) -> Factors | None:  # noqa: ARG002
        return self._factors.get(name)


def same_weights(merge: Merge, other: Merge, dimensions: Mapping[str, int], *, up_to_rounding: bool = False) -> bool:
    """Return whether two merges of the same models are equal bit for bit, tested on small random models and adapters.

    up_to_rounding: whether weights may differ by the order of float32 additions.
    dimensions: tensor -> its number of dimensions, for all tensors of the tables; one of a group with each number
    represents all. False also if a method cannot be tested: it rejects its coefficients, or needs statistics.
    """
    if (merge.recipe, merge.seed) == (other.recipe, other.seed) and merge.table == other.table:
        return True
    few = {(group, dimensions[name]): name for group, names in merge.table.groups.items() for name in names}
    shapes = {name: _SHAPE[:count] for (_, count), name in few.items()}
    pair = [replace(each, table=_of(each.table, tuple(shapes))) for each in (merge, other)]
    rtol = ROUNDING if up_to_rounding else 0.0
    return all(_agree(pair, shapes, rtol, adapters=adapters) for adapters in (False, True))


def sums_deltas(merge: Merge, dimensions: Mapping[str, int]) -> bool:
    """Return whether a merge is the base plus sums of the inputs' changes to it, tested on small random models.

    dimensions: as for `same_weights`. False also if a method cannot be tested.
    """
    few = {(group, dimensions[name]): name for group, names in merge.table.groups.items() for name in names}
    shapes = {name: _SHAPE[:count] for (_, count), name in few.items()}
    random = torch.Generator().manual_seed(0)
    names = [model.name for model in merge.recipe.inputs]
    engine = MergeEngine(_MadeUp(shapes, random, None), [_MadeUp(shapes, random, None) for _ in names], names=names)
    try:
        return engine.of_deltas(replace(merge, table=_of(merge.table, tuple(shapes)))) is not None
    except (MergeError, MethodError):
        return False


def _agree(merges: Sequence[Merge], shapes: Mapping[str, tuple[int, ...]], rtol: float, *, adapters: bool) -> bool:
    """Return whether two merges of made-up models are equal. adapters: whether the models are the base plus factors.

    rtol: tolerance relative to the magnitude of the weights.
    """
    random = torch.Generator().manual_seed(0)
    names = [model.name for model in merges[0].recipe.inputs]
    base = _MadeUp(shapes, random, None)
    engine = MergeEngine(base, [_MadeUp(shapes, random, base if adapters else None) for _ in names], names=names)
    try:
        pairs = zip(*(engine.stream(merge) for merge in merges), strict=True)
        return all(torch.allclose(mine, its, rtol=rtol, atol=rtol) for (_, mine), (_, its) in pairs)
    except (MergeError, MethodError):
        return False


def _of(table: CoefficientTable, names: tuple[str, ...]) -> CoefficientTable:
    """Return the part of a table for these tensors."""
    groups = {group: tuple(name for name in members if name in names) for group, members in table.groups.items()}
    return CoefficientTable(groups, table.values)
