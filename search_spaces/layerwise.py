"""Separate coefficients for every block (layer-wise AdaMerging, https://arxiv.org/abs/2310.02575)."""

from search_spaces._groups import by_layer
from search_spaces.base import Design, Layout, SearchSpace


class Layerwise(SearchSpace):
    """Groups `block.0`, `block.1`, ... and, outside blocks, `embedding`, `norm`, `head`, `other`.

    A model without blocks (any tensor dictionary) has only the groups outside blocks.
    """

    def _design(self, layout: Layout) -> Design:
        return Design(by_layer(layout))
