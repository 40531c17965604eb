"""The winner's curse against loops over all pairs."""

from itertools import combinations

import numpy as np
import pytest
from scipy import integrate, stats

from evomerge.statistics import expected_maximum, optimism

RNG = np.random.default_rng(0)


def test_noise_is_half_the_mean_variance_of_paired_differences() -> None:
    values = {"graded": RNG.random((5, 30)), "right": (RNG.random((5, 40)) < RNG.random(40)) / 3}
    pairs = list(combinations(range(5), 2))
    half = sum(
        np.mean([np.var(rows[a] - rows[b], ddof=1) for a, b in pairs]) / 2 / rows.shape[1] for rows in values.values()
    )
    found = optimism(values)
    assert found.noise == pytest.approx(half)
    scores = sum(rows.mean(axis=1) for rows in values.values())
    assert found.measured == pytest.approx(scores)
    assert found.spread == pytest.approx(max(0, np.var(scores, ddof=1) - half))
    assert found.shrunk == pytest.approx(scores.mean() + found.reliability * (scores - scores.mean()))
    differ = np.concatenate([[rows[a] != rows[b] for a, b in pairs] for rows in values.values()], axis=1)
    assert found.disagreement == pytest.approx(differ.mean())


def test_with_zeros_and_ones_it_is_the_disagreement_over_twice_n() -> None:
    rows = (RNG.random((60, 400)) < RNG.random(400)).astype(float)
    found = optimism({"t": rows})
    assert found.noise == pytest.approx(found.disagreement / (2 * 400), rel=0.01)
    assert found.expected == pytest.approx(
        expected_maximum(60) * found.noise / np.sqrt(found.noise + found.spread), rel=1e-9
    )


def test_equal_candidates_leave_nothing_to_expect() -> None:
    same = optimism({"t": np.repeat(RNG.random((1, 20)), 4, axis=0)})
    assert (same.noise, same.expected, same.disagreement) == pytest.approx((0, 0, 0))
    alone = optimism({"t": RNG.random((1, 20))})
    assert (alone.expected, alone.disagreement) == (0, 0)
    assert alone.shrunk == pytest.approx(alone.measured)


@pytest.mark.parametrize("count", [1, 2, 50, 200, 1000])
def test_expected_maximum(count: int) -> None:
    exact, _ = integrate.quad(
        lambda x: x * count * stats.norm.pdf(x) * stats.norm.cdf(x) ** (count - 1), -12, 12, limit=500, points=[0, 2, 4]
    )
    assert expected_maximum(count) == pytest.approx(exact, abs=1e-8)
    published = {1: 0.0, 50: 2.25, 200: 2.74, 1000: 3.24}
    assert expected_maximum(count) == pytest.approx(published.get(count, exact), abs=0.01)
