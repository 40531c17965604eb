"""Noise of scoring twice, against noise that was put there."""

import numpy as np
import pytest

from evomerge.statistics import rerun


def test_independent_noise() -> None:
    rng = np.random.default_rng(0)
    errors = []
    for _ in range(300):
        quality = rng.random(200)
        first, second = quality + rng.normal(0, 0.3, 200), quality + rng.normal(0, 0.3, 200)
        errors.append(rerun({"t": first / 2, "u": np.ones(5)}, {"t": second / 2, "u": np.ones(5)}).standard_error)
    assert np.mean(errors) == pytest.approx(0.15 / np.sqrt(200), rel=0.02)


def test_what_changed() -> None:
    first, second = np.array([1.0, 0, 1, 1, np.nan]), np.array([1.0, 1, 1, 0, 1])
    found = rerun({"t": first}, {"t": second})
    assert (found.changed, found.difference.mean, found.difference.n_examples) == (0.5, 0, 4)
    same = rerun({"t": first}, {"t": first})
    assert (same.changed, same.standard_error, same.difference.p) == (0, 0, 1)


def test_what_all_examples_share_shows_in_the_difference() -> None:
    first = np.random.default_rng(0).random(100)
    found = rerun({"t": first}, {"t": first + 0.1 + 0.01 * np.sin(np.arange(100))})
    assert found.difference.mean == pytest.approx(0.1, abs=0.01)
    assert found.difference.p < 1e-9
