"""Non-negative weights that sum to 1 over the inputs, in every group; uniform on the simplex.

Stick breaking with Beta marginals: https://en.wikipedia.org/wiki/Dirichlet_distribution.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from search_spaces._groups import GRANULARITIES, expert_notes
from search_spaces._transforms import Simplex as SimplexScale
from search_spaces.base import CoefficientTable, Design, Layout, Parameter, SearchSpace, SpaceError


class Simplex(SearchSpace):
    """`weight` has n_inputs - 1 coordinates per group: `weight[block.3, after math]`; default 1 / n_inputs.

    Other parameters are as in the space named by `groups`, and other options as in every space; `weight` takes no
    range. Requires a method with one weight per input.

    Args:
        groups: Partition of the tensors: "uniform", "layerwise", "blockwise", "expertwise" or "tensorwise".
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
        if groups not in GRANULARITIES:
            raise SpaceError(f"groups needs one of {', '.join(GRANULARITIES)}; it is {groups!r}.")
        self._granularity = groups
        super().__init__(layout, inputs, parameters, ranges=ranges, freeze=freeze, tie=tie, start=start)

    def _design(self, layout: Layout) -> Design:
        return Design(
            GRANULARITIES[self._granularity](layout),
            scales={"weight": SimplexScale(len(self.inputs))},
            notes=expert_notes(layout) if self._granularity == "expertwise" else (),
        )
