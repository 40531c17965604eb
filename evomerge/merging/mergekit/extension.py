"""The key `evomerge` in a mergekit configuration: information that mergekit's keys cannot express, and its recovery.

It holds the recipe in evomerge's terms, without coefficients. It is valid only as long as the rest of the file equals
the output for that recipe: coefficients may be edited by hand, models or options may not.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from evaluators._strict_yaml import Document
from evomerge import plugins
from evomerge.merging.mergekit.configuration import OWN, Note
from evomerge.merging.mergekit.file import FileReader
from evomerge.merging.mergekit.methods import METHODS, NAMES
from evomerge.merging.mergekit.models import references
from evomerge.merging.mergekit.settings import Setting, read_setting
from evomerge.merging.mergekit.write import to_mergekit
from evomerge.merging.method import MergeMethod
from evomerge.recipe import Merge, RecipeError
from evomerge.recipe.reader import FORMAT, RecipeReader
from search_spaces.base import CoefficientTable, FloatArray

#: Reads only mergekit's keys of a configuration.
Read = Callable[[Mapping[str, Any]], Merge]


@dataclass(frozen=True)
class Own:
    """The contents written by evomerge. merge: the recipe and the seed, without coefficients. dtype: written for None.

    weight: input -> its weights, if mergekit's are divided by the density.
    """

    merge: Merge
    dtype: str | None
    weight: Mapping[str, Setting]


def read_own(reader: FileReader, data: Any) -> Own | None:
    """Read the key's contents, or None if it is absent. Raises InteropError."""
    if data is None:
        return None
    given = dict(reader.mapping(data, (OWN,)))
    dtype, weight = given.pop("out_dtype", None), given.pop("weight", {})
    try:
        merge = RecipeReader(Document({OWN: FORMAT, **given}, "recipe"), reader.folder).merge()
    except RecipeError as error:
        reader.refuse((OWN,), str(error))
    settings = {
        name: read_setting(reader, setting, (OWN, "weight", name), "number")
        for name, setting in reader.mapping(weight, (OWN, "weight")).items()
    }
    return Own(merge, dtype, settings)


def restored(found: Merge, own: Own, read: Read, note: Note) -> Merge:
    """Return the merge as written, with the coefficients of mergekit's keys; `found` if these keys differ.

    found: the merge described by mergekit's keys alone.
    """
    merge = own.merge
    if merge.recipe.dtype is None and own.dtype != found.recipe.dtype:
        merge = replace(merge, recipe=replace(merge.recipe, dtype=found.recipe.dtype))
    table = _table(found, merge, own.weight)
    if table is not None:
        merge = replace(merge, table=table)
        if read(to_mergekit(merge, out_dtype=found.recipe.dtype)).recipe == found.recipe:
            return merge
    note(f"the key `{OWN}` no longer matches the rest of the file and was ignored: names and seed are new")
    return found


def _table(found: Merge, wanted: Merge, exact: Mapping[str, Setting]) -> CoefficientTable | None:
    """Return the coefficients in the order of the inputs wanted; None for other models."""
    theirs, ours = ([references(r)[model.name] for model in r.inputs] for r in (found.recipe, wanted.recipe))
    if wanted.recipe.method != found.recipe.method or sorted(map(str, theirs)) != sorted(map(str, ours)):
        return None
    order = [theirs.index(model) for model in ours]
    values = {
        name: array[:, order] if array.shape[1] == len(order) and array.shape[1] > 1 else array
        for name, array in found.table.values.items()
    }
    if METHODS[NAMES[found.recipe.method]].by_density and _rescale(wanted) == "paper" and _rescale(found) == "none":
        values["weight"] = _multiplied(found, values, [exact.get(model.name) for model in wanted.recipe.inputs])
    return CoefficientTable(found.table.groups, values)


def _rescale(merge: Merge) -> Any:
    method: MergeMethod = plugins.load("merge method", merge.recipe.method, MergeMethod)
    return {**method.options, **merge.recipe.options}["rescale"]


def _multiplied(found: Merge, values: Mapping[str, FloatArray], exact: list[Setting | None]) -> FloatArray:
    """Return weights from mergekit's, which are divided by the density: the exact ones, unless they were edited."""
    divided, density = np.broadcast_arrays(values["weight"], values["density"])
    weights: FloatArray = divided * density
    for row, members in enumerate(found.table.groups.values()):
        for column, setting in enumerate(exact):
            value = None if setting is None else setting.at(members[0], 0.0)
            if (
                value is not None
                and (value / density[row, column] if density[row, column] else 0.0) == divided[row, column]
            ):
                weights[row, column] = value
    return weights
