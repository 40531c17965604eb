"""What a report needs beyond the ledger: coefficients, recipes and the search file."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from search_spaces.base import CoefficientTable, FloatArray


@dataclass(frozen=True, eq=False)
class PageSources:
    """Coefficients and recipes by trial number on the search split, and the search file.

    inputs: names of the merged models. tables: coefficients. decode: from a point of the cube to its coefficients;
    None if that is unknown. recipes: the text of a recipe file. missing: why there are no tables and recipes,
    else empty. configuration: the search file as it ran.
    """

    inputs: tuple[str, ...] = ()
    tables: Mapping[int, CoefficientTable] = field(default_factory=dict)
    decode: Callable[[FloatArray], CoefficientTable] | None = None
    recipes: Mapping[int, str] = field(default_factory=dict)
    missing: str = ""
    configuration: str = ""
