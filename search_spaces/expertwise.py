"""Coefficients of their own for every expert of a mixture, and for attention, MLP and norms of every block."""

from search_spaces._groups import by_expert
from search_spaces.base import Design, Layout, SearchSpace


class Expertwise(SearchSpace):
    """Groups as in `blockwise`, and `block.0.expert.0`, `block.0.expert.1`, ... for experts that a router chooses.

    Router and shared experts stay in `block.N.mlp`. Experts that the checkpoint holds as one tensor (Llama 4, GPT-OSS)
    cannot be told apart and stay there too. `tie` brings experts of several blocks together.
    """

    def _design(self, layout: Layout) -> Design:
        return Design(by_expert(layout))
