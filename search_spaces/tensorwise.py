"""Separate coefficients for every tensor: a gradient costs the same for any number of groups."""

from search_spaces._groups import by_component, by_tensor
from search_spaces.base import Design, Layout, SearchSpace


class Tensorwise(SearchSpace):
    """A group for every tensor, named like it: `weight[model.layers.3.mlp.up_proj.weight, math]`.

    That is hundreds of coordinates per expert, too many for an optimizer that does not follow gradients; `optimizer:
    auto` moves the coordinates of a block together first. The patterns of `freeze` and `tie` match tensor names, such
    as `*norm*`.
    """

    def _design(self, layout: Layout) -> Design:
        return Design(by_tensor(layout), coarse=by_component(layout))
