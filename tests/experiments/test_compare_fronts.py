"""Which searchers are compared on which landscape."""

from experiments.compare_fronts import SEARCHERS, searchers_for
from experiments.front_landscapes import LANDSCAPES


def test_a_searcher_is_left_out_where_it_cannot_search() -> None:
    names = list(SEARCHERS)
    without = [name for name in names if name not in ("auto", "gradient_front")]
    assert searchers_for(LANDSCAPES["deep-72"], names) == names
    assert searchers_for(LANDSCAPES["synthetic-4"], names) == without
    assert searchers_for(LANDSCAPES["synthetic-5"], names) == [name for name in without if name != "gp"]
