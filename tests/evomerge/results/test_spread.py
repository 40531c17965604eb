"""A few of many points lie far apart, and the first is always among them."""

import numpy as np

from evomerge.results.spread import spread


def test_the_first_the_ends_and_the_middle_of_a_line() -> None:
    line = np.linspace(0, 1, 101)
    points = np.stack([line, 1000 * (1 - line)], axis=1)
    assert spread(points, 3).tolist() == [0, 50, 100]
    assert spread(points[::-1], 2).tolist() == [0, 100]


def test_a_crowd_does_not_take_the_places_of_the_others() -> None:
    """By their order, evenly, all but one would be of the crowd."""
    crowd = 0.5 + 1e-3 * np.random.default_rng(0).random((97, 2))
    points = np.vstack([crowd, [[0, 1], [1, 0], [0.2, 0.9]]])
    assert spread(points, 4).tolist() == [0, 97, 98, 99]


def test_objectives_count_by_their_range() -> None:
    points = np.array([[0.0, 0.0], [0.1, 1e6], [1.0, 0.5e6], [0.0, 0.1e6]])
    assert spread(points, 3).tolist() == [0, 1, 2]


def test_all_where_there_are_no_more() -> None:
    assert spread(np.ones((3, 2)), 3).tolist() == [0, 1, 2]
    assert spread(np.empty((0, 2)), 3).tolist() == []
    assert len(spread(np.ones((5, 2)), 3)) <= 3
