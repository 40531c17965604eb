"""A few random directions through the start, in place of all groups (Li et al., 2018). https://arxiv.org/abs/1804.08838."""

from collections.abc import Mapping, Sequence
from typing import Any

from search_spaces._groups import GRANULARITIES, expert_notes
from search_spaces.base import CoefficientTable, Design, Layout, Parameter, SearchSpace, SpaceError


class Subspace(SearchSpace):
    """`directions` coordinates per value, however many groups there are: `weight[direction.0, math]`.

    The middle of every coordinate is the start. The first direction moves all groups alike, the others are random and
    orthogonal; each input has its own. Values stay within their bounds, as positions between them move on the logit
    scale; a start at a bound begins a thousandth inside. Frozen and tied groups are left out. The subspace holds few of
    all candidates: another `seed` draws another one, and a `start` found in one is the center of the next.

    Args:
        groups: Partition of the tensors: "uniform", "layerwise", "blockwise", "expertwise" or "tensorwise".
        directions: Number of directions for every parameter, at least 1, or parameter -> number, where others have a
            coordinate per group.
        seed: Key of the random directions, a non-negative integer.
    """

    def __init__(
        self,
        layout: Layout,
        inputs: Sequence[str],
        parameters: Sequence[Parameter],
        *,
        groups: str = "tensorwise",
        directions: int | Mapping[str, int] = 4,
        seed: int = 0,
        ranges: Mapping[str, Sequence[float]] | None = None,
        freeze: Mapping[str, Any] | None = None,
        tie: Sequence[Sequence[str]] = (),
        start: CoefficientTable | None = None,
    ) -> None:
        if groups not in GRANULARITIES:
            raise SpaceError(f"groups needs one of {', '.join(GRANULARITIES)}; it is {groups!r}.")
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise SpaceError(f"seed needs a whole number of at least 0; it is {seed!r}.")
        names = [parameter.name for parameter in parameters]
        self._directions = dict(directions) if isinstance(directions, Mapping) else dict.fromkeys(names, directions)
        for number in self._directions.values():
            if isinstance(number, bool) or not isinstance(number, int) or number < 1:
                raise SpaceError(f"directions needs whole numbers of at least 1; it is {directions!r}.")
        self._granularity, self._seed = groups, seed
        super().__init__(layout, inputs, parameters, ranges=ranges, freeze=freeze, tie=tie, start=start)

    def _design(self, layout: Layout) -> Design:
        return Design(
            GRANULARITIES[self._granularity](layout),
            directions=self._directions,
            seed=self._seed,
            notes=expert_notes(layout) if self._granularity == "expertwise" else (),
        )
