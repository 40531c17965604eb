"""The space for the optimizer: a group per tensor for gradients, a group per layer for black-box search."""

from search_spaces._groups import by_component, by_tensor
from search_spaces.base import Design, Layout, SearchSpace


class Auto(SearchSpace):
    """`tensorwise` where an optimizer follows gradients and the merge method has them, `layerwise` elsewhere.

    The search decides which of the two before it starts, and `evomerge check` says so.
    """

    def _design(self, layout: Layout) -> Design:
        return Design(by_tensor(layout), coarse=by_component(layout))
