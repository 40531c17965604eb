"""Coefficients and recipes of the points that can be chosen, small enough to travel in one file."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from evomerge.report.html.sources import PageSources
from evomerge.study import Study
from search_spaces.base import FloatArray

#: Recipes in a file, and their characters; what does not fit is written by `evomerge export`.
RECIPES, RECIPE_CHARACTERS = 80, 600_000
#: Coefficients in a file, over all points, and over all that are only predicted.
COEFFICIENTS, PREDICTED = 100_000, 20_000
#: Where a recipe's own part begins; what is above is the same for all points of a search.
_SEAM = "\ncoefficients:"


def coefficients_data(study: Study, sources: PageSources, numbers: Iterable[int]) -> dict[str, Any]:
    """Tables, recipes and points by trial number, as many of `numbers`, the most wanted first, as there is room for.

    values: parameter -> rows of groups, in the order of layouts[layout]. recipes: head + tail is the file's text.
    points: coordinates, in place of what `missing` says is not there.
    """
    layouts: list[list[str]] = []
    tables: dict[str, dict[str, Any]] = {}
    points: dict[str, list[float]] = {}
    room = COEFFICIENTS
    wanted = list(dict.fromkeys(numbers))
    for number in wanted:
        table, trial = sources.tables.get(number), study.entries[number].trial
        size = trial.x.size if table is None and trial.x is not None else 0
        size = size if table is None else sum(array.size for array in table.values.values())
        room -= size
        if room < 0:
            break
        if table is not None:
            names = list(table.groups)
            if names not in layouts:
                layouts.append(names)
            values = {name: _short(array) for name, array in table.values.items()}
            tables[str(number)] = {"layout": layouts.index(names), "values": values}
        elif trial.x is not None:
            points[str(number)] = _short(trial.x)
    heads, recipes = _recipes(sources, wanted)
    return {
        "inputs": list(sources.inputs),
        "missing": sources.missing,
        "layouts": layouts,
        "tables": tables,
        "points": points,
        "heads": heads,
        "recipes": recipes,
    }


def predicted_coefficients(sources: PageSources, points: Mapping[int, FloatArray]) -> dict[str, Any]:
    """The same for predicted points by their number, as many of `points`, the most wanted first, as there is room for.

    points: number -> point of the cube, (dimension,). tables: parameter -> rows of `groups`. points: coordinates, in
    place of tables that cannot be told.
    """
    groups: list[str] = []
    tables: dict[str, dict[str, Any]] = {}
    coordinates: dict[str, Any] = {}
    room = PREDICTED
    for number, x in points.items():
        table = None if sources.decode is None else sources.decode(x)
        room -= x.size if table is None else sum(array.size for array in table.values.values())
        if room < 0:
            break
        if table is None:
            coordinates[str(number)] = _short(x)
        else:
            groups = list(table.groups)
            tables[str(number)] = {name: _short(array) for name, array in table.values.items()}
    return {"groups": groups, "tables": tables, "points": coordinates}


def _short(array: FloatArray) -> Any:
    """A list of the numbers rounded for display: the recipe has all digits."""
    return np.vectorize(lambda value: float(f"{value:.5g}"), otypes=[float])(array).tolist()


def _recipes(sources: PageSources, numbers: Sequence[int]) -> tuple[list[str], dict[str, dict[str, Any]]]:
    heads: list[str] = []
    recipes: dict[str, dict[str, Any]] = {}
    room = RECIPE_CHARACTERS
    for number in numbers[:RECIPES]:
        head, seam, tail = sources.recipes.get(number, "").partition(_SEAM)
        room -= len(tail) + (0 if head in heads else len(head))
        if room < 0:
            break
        if seam:
            if head not in heads:
                heads.append(head)
            recipes[str(number)] = {"head": heads.index(head), "tail": seam + tail}
    return heads, recipes
