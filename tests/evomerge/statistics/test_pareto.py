"""Fronts whose numbers can be worked out by hand."""

import numpy as np
import pytest

from evomerge.statistics.pareto import differing, hypervolume, igd_plus, non_dominated

STAIRS = np.array([[0.0, 2.0], [1.0, 1.0], [2.0, 0.0]])


def test_what_no_point_beats_is_on_the_front_twice_if_it_is_there_twice() -> None:
    losses = np.array([[1.0, 1.0], [1.0, 1.0], [1.0, 2.0], [0.0, 3.0], [0.5, 3.0]])
    assert non_dominated(losses).tolist() == [True, True, False, True, False]


def test_hypervolume_is_the_area_of_the_stairs() -> None:
    assert hypervolume(STAIRS, np.array([3.0, 3.0])) == pytest.approx(3 + 2 + 1)
    assert hypervolume(STAIRS, np.array([0.5, 3.0])) == pytest.approx(0.5)
    assert hypervolume(STAIRS + 5.0, np.array([3.0, 3.0])) == 0.0


def test_igd_plus_counts_only_what_is_missing() -> None:
    assert igd_plus(STAIRS - 1.0, STAIRS) == 0.0
    assert igd_plus(np.array([[1.0, 1.0]]), STAIRS) == pytest.approx((1 + 0 + 1) / 3)


def test_an_objective_in_which_all_points_are_equal_does_not_differ() -> None:
    assert differing(np.array([[1.0, 0.5, 2.0], [1.0, 0.7, 2.0]])).tolist() == [False, True, False]
