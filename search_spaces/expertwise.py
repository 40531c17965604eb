"""Separate coefficients for every expert of a mixture, and for the attention, MLP and norms of every block."""

from search_spaces._groups import by_expert, expert_notes
from search_spaces.base import Design, Layout, SearchSpace


class Expertwise(SearchSpace):
    """Groups as in `blockwise`, plus `block.0.expert.0`, `block.0.expert.1`, ... for routed experts.

    Routers and shared experts stay in `block.N.mlp`, and so do experts that the checkpoint stores as one tensor (Llama
    4, GPT-OSS), which cannot be separated; `evomerge check` says so. Use `tie` to join experts of several blocks.
    """

    def _design(self, layout: Layout) -> Design:
        return Design(by_expert(layout), notes=expert_notes(layout))
