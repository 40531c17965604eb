"""One coefficient per parameter and input model, for the whole model."""

from search_spaces._groups import whole
from search_spaces.base import Design, Layout, SearchSpace


class Uniform(SearchSpace):
    """A single group, `all`; for task arithmetic, one weight per expert."""

    def _design(self, layout: Layout) -> Design:
        return Design(whole(layout))
