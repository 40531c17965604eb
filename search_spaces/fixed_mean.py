"""Groups of layers whose values have a fixed mean, after AMA (Lin et al., 2024). https://arxiv.org/abs/2309.06256."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from search_spaces.base import CoefficientTable, Design, Layout, Parameter, SearchSpace, SpaceError


class FixedMean(SearchSpace):
    """Groups `blocks.0-10`, `blocks.11-20`, ... of consecutive blocks; one coordinate fewer than groups per value.

    A coordinate says where a group's value lies between the least and the largest one that the mean leaves possible,
    given the groups before it: `weight[blocks.0-10, math]`. The last group takes the rest. Frozen and tied groups are
    left out of the mean, and a start with another mean is moved to it. Embeddings are in the first group, the final
    norm and the head in the last one.

    The paper cuts 32 blocks after 11 and 21, as this does, and has values between 0.23 and 2.25 times the mean, from
    sigmoids; here the bounds of the parameter limit them.

    Args:
        groups: Number of groups of blocks, at least 2; at most one per block is made.
        mean: Mean over the groups, for every parameter, or parameter -> mean, where others are free in every group. By
            default each parameter has its default as mean.
    """

    def __init__(
        self,
        layout: Layout,
        inputs: Sequence[str],
        parameters: Sequence[Parameter],
        *,
        groups: int = 3,
        mean: float | Mapping[str, float] | None = None,
        ranges: Mapping[str, Sequence[float]] | None = None,
        freeze: Mapping[str, Any] | None = None,
        tie: Sequence[Sequence[str]] = (),
        start: CoefficientTable | None = None,
    ) -> None:
        if isinstance(groups, bool) or not isinstance(groups, int) or groups < 2:
            raise SpaceError(f"groups needs a whole number of at least 2; it is {groups!r}.")
        self._n_parts = groups
        self._means = _means(mean, parameters)
        super().__init__(layout, inputs, parameters, ranges=ranges, freeze=freeze, tie=tie, start=start)

    def _design(self, layout: Layout) -> Design:
        n_parts = min(self._n_parts, max(layout.n_blocks, 1))
        cuts = [round(part * layout.n_blocks / n_parts) for part in range(n_parts + 1)]
        groups = [f"blocks.{first}-{end - 1}" for first, end in pairwise(cuts)] if layout.n_blocks else ["all"]
        members: dict[str, list[str]] = {group: [] for group in groups}
        for name, block, component in zip(layout.names, layout.blocks, layout.components, strict=True):
            place = block if block is not None else -1 if component == "embedding" else layout.n_blocks
            members[groups[sum(place >= cut for cut in cuts[1:-1])]].append(name)
        return Design({group: tuple(names) for group, names in members.items()}, means=self._means)


def _means(
    mean: float | Mapping[str, float] | None, parameters: Sequence[Parameter]
) -> dict[str, float] | dict[str, None]:
    """Return parameter -> mean, None for its default; an unknown parameter is refused by the base class."""
    if mean is None:
        return dict.fromkeys([parameter.name for parameter in parameters])
    given = mean if isinstance(mean, Mapping) else {parameter.name: mean for parameter in parameters}
    for value in given.values():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise SpaceError(f"mean needs a number, or parameter -> number; it is {mean!r}.")
    return {name: float(value) for name, value in given.items()}
