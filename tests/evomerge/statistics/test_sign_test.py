"""The exact test against enumeration, and against McNemar's where weights are equal."""

from itertools import product

import pytest
from scipy import stats

from evomerge.statistics.sign_test import sign_test


def enumerated(wins: list[int], losses: list[int], weights: list[float]) -> float:
    signs = [(weight,) * (won + lost) for won, lost, weight in zip(wins, losses, weights, strict=True)]
    sizes = [size for task in signs for size in task]
    measured = abs(sum(w * (a - b) for a, b, w in zip(wins, losses, weights, strict=True)))
    sums = [
        abs(sum(s * size for s, size in zip(drawn, sizes, strict=True)))
        for drawn in product((-1, 1), repeat=len(sizes))
    ]
    return sum(total >= measured - 1e-9 for total in sums) / len(sums)


@pytest.mark.parametrize(
    ("wins", "losses", "weights"),
    [([5, 3], [1, 2], [1 / 50, 1 / 300]), ([4, 2, 3], [0, 1, 1], [0.3, 0.11, 0.07]), ([0, 6], [5, 0], [1.0, 0.4])],
)
def test_unequal_weights(wins: list[int], losses: list[int], weights: list[float]) -> None:
    p = sign_test(wins, losses, weights)
    assert p == pytest.approx(enumerated(wins, losses, weights), rel=0.02)
    assert p >= enumerated(wins, losses, weights) - 1e-9
    assert p == pytest.approx(sign_test(losses, wins, weights))


def test_equal_weights_and_no_differences() -> None:
    assert sign_test([9, 4], [2, 1], [0.01, 0.01]) == pytest.approx(stats.binomtest(13, 16, 0.5).pvalue)
    assert sign_test([9, 0], [2, 0], [0.01, 0.5]) == pytest.approx(stats.binomtest(9, 11, 0.5).pvalue)
    assert sign_test([0], [0], [0.01]) == 1.0
    assert sign_test([3, 9], [1, 0], [0.01, 0.0]) == pytest.approx(stats.binomtest(3, 4, 0.5).pvalue)
