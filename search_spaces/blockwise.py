"""Separate coefficients for the attention, MLP and norms of every block."""

from search_spaces._groups import by_component
from search_spaces.base import Design, Layout, SearchSpace


class Blockwise(SearchSpace):
    """Groups `block.0.attention`, `block.0.mlp`, `block.0.norm`, ..., `embedding`, `norm`, `head`, `other`.

    `norm` is the final norm; tensors with unknown names are in `block.N.other` or `other`.
    """

    def _design(self, layout: Layout) -> Design:
        return Design(by_component(layout))
