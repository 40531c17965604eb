"""One coefficient per input model and parameter for the whole model."""

from search_spaces._groups import whole
from search_spaces.base import Design, Layout, SearchSpace


class Uniform(SearchSpace):
    """The group `all`; with task arithmetic this is the space of one weight per expert."""

    def _design(self, layout: Layout) -> Design:
        return Design(whole(layout))
