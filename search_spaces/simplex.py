"""Weights that are not negative and sum to 1 over the inputs, in every group; uniform on the simplex.

Stick breaking with Beta marginals: https://en.wikipedia.org/wiki/Dirichlet_distribution.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from search_spaces._groups import GRANULARITIES
from search_spaces._transforms import Simplex as SimplexScale
from search_spaces.base import CoefficientTable, Design, Layout, Parameter, SearchSpace, SpaceError


class Simplex(SearchSpace):
    """`weight` has n_inputs - 1 coordinates per group: `weight[block.3, after math]`; default 1 / n_inputs.

    The other parameters are as in the space that `groups` names. Needs a method with a weight per input.
    """

    def __init__(
        self,
        layout: Layout,
        inputs: Sequence[str],
        parameters: Sequence[Parameter],
        *,
        groups: str = "layerwise",
        ranges: Mapping[str, Sequence[float]] | None = None,
        freeze: Mapping[str, Any] | None = None,
        tie: Sequence[Sequence[str]] = (),
        start: CoefficientTable | None = None,
    ) -> None:
        """groups: "uniform", "layerwise" or "blockwise".

        The other arguments are those of every space; `weight` takes no range.
        """
        if groups not in GRANULARITIES:
            raise SpaceError(f"groups needs one of {', '.join(GRANULARITIES)}; it is {groups!r}.")
        self._granularity = groups
        super().__init__(layout, inputs, parameters, ranges=ranges, freeze=freeze, tie=tie, start=start)

    def _design(self, layout: Layout) -> Design:
        return Design(GRANULARITIES[self._granularity](layout), scales={"weight": SimplexScale(len(self.inputs))})
