"""Merges along a path: blocks of several models one after the other, as a recipe of slices. METHOD: passthrough.

A path may scale the input of a block by w. In a network whose blocks add to a residual stream, and read it through
RMSNorm only, which ignores the stream's scale up to its epsilon, that is the same as dividing what the block and all
later ones add by the product c of the scales so far: the stream is then 1/c of what it would be, and the final norm
removes the rest. So the scales are folded into the two output projections of each block
(https://arxiv.org/abs/2403.13187).
"""

from dataclasses import replace
from itertools import accumulate
from operator import mul
from pathlib import Path as FilePath

import numpy as np

from evomerge.recipe.recipe import Merge, Recipe, Slice
from search_spaces.base import CoefficientTable, Path, Step

#: The modules of a block that write to the residual stream.
OUTPUTS = ("self_attn.o_proj", "mlp.down_proj")
#: The only merge method of a path.
METHOD = "passthrough"


def whole_path(name: str, depth: int) -> Path:
    """Return the path that is one of the models."""
    return Path(tuple(Step(name, block) for block in range(depth)), name)


def parent_merge(recipe: Recipe, name: str, depth: int, seed: int) -> Merge:
    """Return one of the models as a path of its own, with its configuration and tokenizer."""
    models = {model.name: model for model in (recipe.base, *recipe.inputs)}
    own = models.pop(name)
    return merge_along(replace(recipe, base=own, inputs=tuple(models.values())), whole_path(name, depth), seed)


def merge_along(recipe: Recipe, path: Path, seed: int) -> Merge:
    """Return the merge of a path through the models of a recipe; the result has the configuration of its base.

    The recipe's base is an input under another name, since the blocks of a slice come from inputs.
    """
    models = {model.name: model for model in (recipe.base, *recipe.inputs)}
    names = {name: name for name in models} | {recipe.base.name: _name_as_input(recipe)}
    used = {path.ends, *(step.model for step in path.steps)}
    inputs = tuple(replace(models[name], name=names[name], statistics=None) for name in models if name in used)
    slices = tuple(_slice(names[name], first, blocks) for name, first, blocks in _runs(path))
    along = replace(recipe, inputs=inputs, method=METHOD, options={}, slices=slices)
    return Merge(along, _table(path, len(inputs)), seed)


def _name_as_input(recipe: Recipe) -> str:
    taken = [model.name for model in (recipe.base, *recipe.inputs)]
    folder = FilePath(recipe.base.path).name
    return folder if folder and folder not in (*taken, "base", "union") else f"{recipe.base.name}-blocks"


def _slice(name: str, first: int, blocks: int) -> Slice:
    return Slice(blocks, (name, first), {name: first})


def _runs(path: Path) -> list[tuple[str, int, int]]:
    """Return model, first block and length of every run of consecutive blocks.

    A run of length 0 at the beginning or the end is the model of the ends, if the block there is another's.
    """
    runs: list[tuple[str, int, int]] = []
    for step in path.steps:
        name, first, blocks = runs[-1] if runs else ("", 0, 0)
        if (step.model, step.block) == (name, first + blocks):
            runs[-1] = (name, first, blocks + 1)
        else:
            runs.append((step.model, step.block, 1))
    end = [(path.ends, 0, 0)]
    return [*(end if runs[0][0] != path.ends else ()), *runs, *(end if runs[-1][0] != path.ends else ())]


def _table(path: Path, n_inputs: int) -> CoefficientTable:
    """Return the factors of all tensors: 1, except for output projections at and after a scale."""
    groups, factors = {}, []
    for place, product in enumerate(accumulate((step.scale for step in path.steps), mul)):
        if product != 1.0:
            groups[f"block.{place}.outputs"] = tuple(f"*layers.{place}.{module}.*" for module in OUTPUTS)
            factors.append(1.0 / product)
    groups["other"] = ("*",)
    return CoefficientTable(groups, {"scale": np.tile(np.array([*factors, 1.0])[:, None], (1, n_inputs))})
