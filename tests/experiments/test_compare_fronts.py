"""Which searchers are compared on which landscape."""

from experiments.compare_fronts import SEARCHERS, searchers_for
from experiments.front_landscapes import LANDSCAPES


def test_a_searcher_is_left_out_where_there_are_more_objectives_than_it_takes() -> None:
    names = list(SEARCHERS)
    assert searchers_for(LANDSCAPES["synthetic-4"], names) == names
    assert searchers_for(LANDSCAPES["synthetic-5"], names) == [name for name in names if name != "gp"]
