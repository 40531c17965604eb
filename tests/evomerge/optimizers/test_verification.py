"""Expected improvement of hypervolume, against moocore's hypervolume and closed forms."""

import numpy as np
import pytest
from scipy.stats import norm

from evomerge.optimizers._verification import Volume
from evomerge.statistics import pareto

MEASURED = np.array([[0.2, 0.8], [0.5, 0.4], [0.9, 0.3], [0.9, 0.9]])
WORST = np.ones(2)
EQUAL = np.full(2, 0.5)


def test_gains_are_those_of_the_hypervolume() -> None:
    new = np.array([[0.3, 0.5], [0.1, 0.9], [0.6, 0.6], [0.5, 0.4]])
    volume = Volume.beyond(MEASURED, np.zeros((1, 2)), WORST, EQUAL, 0)  # the box is the unit square
    before = pareto.hypervolume(MEASURED, WORST)
    assert volume.covered == pytest.approx(before, abs=0.01)
    expected = [pareto.hypervolume(np.vstack([MEASURED, point]), WORST) - before for point in new]
    assert volume.gains(new) == pytest.approx(expected, abs=0.01)
    assert volume.gains(new)[2:].tolist() == [0.0, 0.0]  # dominated, and measured already


def test_the_joint_gain_is_that_of_all_points_together() -> None:
    new = np.array([[0.3, 0.5], [0.1, 0.9], [0.6, 0.6], [0.25, 0.6]])
    volume = Volume.beyond(MEASURED, np.zeros((1, 2)), WORST, EQUAL, 0)
    together = pareto.hypervolume(np.vstack([MEASURED, new]), WORST) - pareto.hypervolume(MEASURED, WORST)
    assert volume.joint_gain(new) == pytest.approx(together, abs=0.01)
    assert volume.joint_gain(new) < volume.gains(new).sum()


def test_expected_gains_of_one_objective_are_expected_improvement() -> None:
    measured, losses, errors = np.array([[0.5], [0.7]]), np.array([[0.45], [0.55]]), np.array([[0.1], [0.1]])
    volume = Volume.beyond(measured, np.zeros((1, 1)), np.ones(1), np.ones(1), 0)
    z = (0.5 - losses[:, 0]) / 0.1
    improvement = 0.1 * (z * norm.cdf(z) + norm.pdf(z))
    assert volume.expected_gains(losses, errors) == pytest.approx(improvement, abs=0.004)


def test_what_is_preferred_weighs_more() -> None:
    new = np.array([[0.1, 0.85], [0.85, 0.1]])
    for preference, first in (([0.8, 0.2], True), ([0.2, 0.8], False)):
        measured = np.array([[0.5, 0.5]])
        gains = Volume.beyond(measured, np.zeros((1, 2)), WORST, np.array(preference), 0).gains(new)
        assert (gains[0] > 1.5 * gains[1]) == first


def test_nothing_beyond_the_worst_counts() -> None:
    volume = Volume.beyond(MEASURED, np.zeros((1, 2)), np.array([0.4, 1.0]), EQUAL, 0)
    assert volume.gains(np.array([[0.45, 0.0]])).tolist() == [0.0]
    assert volume.gains(np.array([[0.35, 0.0]]))[0] > 0.0
