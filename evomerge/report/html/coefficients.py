"""Coefficients and recipes of the report's models, limited so that the file stays small."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from evomerge.report.html.sources import PageSources
from evomerge.study import Study
from search_spaces.base import CoefficientTable, FloatArray

#: Recipes in a file, and their characters; what does not fit is written by `evomerge export`.
RECIPES, RECIPE_CHARACTERS = 80, 600_000
#: Coefficients in a file, over all points, and over all that are only predicted.
COEFFICIENTS, PREDICTED = 100_000, 20_000
#: Where a recipe's own part begins; what is above is the same for all points of a search.
_SEAM = "\ncoefficients:"


def coefficients_data(study: Study, sources: PageSources, numbers: Iterable[int]) -> dict[str, Any]:
    """Return coefficient tables, recipes and points by trial number, as many as there is room for.

    values: parameter -> rows of groups, in the order of layouts[layout]. recipes: head + tail is the file's text.
    points: coordinates, in place of what `missing` says is not there.
    """
    wanted = list(dict.fromkeys(numbers))
    tables = _tables(((n, sources.tables.get(n), study.entries[n].trial.x) for n in wanted), COEFFICIENTS)
    heads, recipes = _recipes(sources, wanted)
    return {
        "inputs": list(sources.inputs),
        "missing": sources.missing,
        **tables,
        "heads": heads,
        "recipes": recipes,
    }


def predicted_coefficients(sources: PageSources, points: Mapping[int, FloatArray]) -> dict[str, Any]:
    """Return coefficient tables and points of predicted points by number, as many as there is room for.

    points: number -> point of the cube, (dimension,), the most wanted first.
    """
    decode = sources.decode
    return _tables(((n, None if decode is None else decode(x), x) for n, x in points.items()), PREDICTED)


def _tables(found: Iterable[tuple[int, CoefficientTable | None, FloatArray | None]], room: int) -> dict[str, Any]:
    """Return tables by number, or coordinates where there is no table, of at most `room` values."""
    layouts: list[list[str]] = []
    tables: dict[str, dict[str, Any]] = {}
    points: dict[str, list[float]] = {}
    for number, table, x in found:
        arrays = list(table.values.values()) if table is not None else [] if x is None else [x]
        room -= sum(array.size for array in arrays)
        if room < 0:
            break
        if table is not None:
            groups = list(table.groups)
            if groups not in layouts:
                layouts.append(groups)
            values = {name: _short(array) for name, array in table.values.items()}
            tables[str(number)] = {"layout": layouts.index(groups), "values": values}
        elif x is not None:
            points[str(number)] = _short(x)
    return {"layouts": layouts, "tables": tables, "points": points}


def _short(array: FloatArray) -> Any:
    """Return the numbers rounded for display, 1e-16 to 0; the recipe has all digits."""
    return np.vectorize(lambda value: float(f"{round(value, 12):.5g}"), otypes=[float])(array).tolist()


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
