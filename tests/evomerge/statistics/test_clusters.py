"""Copies of an example are no evidence: the same numbers as without them, and intervals that hold when some repeat."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from evaluators.base import content_ids
from evomerge.statistics import (
    Difference,
    FloatArray,
    bootstrap_means,
    clusters_of,
    difference,
    estimate,
    hypervolume_interval,
    indifference_set,
    optimism,
    power,
    rerun,
    sample,
)

N = 40
ONCE = content_ids([f"example {n}" for n in range(N)])
#: The copies of each example side by side, and one round of all examples after the other.
REPEATED = {
    "by example": content_ids([f"example {n}" for n in range(N) for _ in range(10)]),
    "by round": content_ids([f"Example  {n}" for _ in range(10) for n in range(N)]),
}


def repeated(values: FloatArray, how: str) -> FloatArray:
    return np.repeat(values, 10, axis=-1) if how == "by example" else np.tile(values, 10)


def answers(kind: str) -> FloatArray:
    """Five candidates, (5, N): right or wrong; weighted by a third; graded; with examples that were not scored."""
    rng = np.random.default_rng(3)
    values = (rng.random((5, N)) < np.linspace(0.5, 0.8, 5)[:, None]).astype(float)
    if kind == "graded":
        values = values + rng.normal(0, 0.3, values.shape)
    return values / 3 if kind == "thirds" else values


STATISTICS: dict[str, Callable[[FloatArray, Any], Any]] = {
    "estimate": lambda values, c: (found := estimate({"t": values[0]}, clusters=c), found.interval),
    "difference": lambda values, c: (
        found := difference({"t": values[0]}, {"t": values[4]}, clusters=c),
        found.interval,
        found.p,
    ),
    "bootstrap": lambda values, c: bootstrap_means({"t": values}, clusters=c, n_resamples=50),
    "indifference": lambda values, c: indifference_set(
        {"t": values}, bootstrap_means({"t": values}, clusters=c, n_resamples=50), clusters=c
    ),
    "optimism": lambda values, c: optimism({"t": values}, clusters=c),
    "power": lambda values, c: (
        found := power({"t": values[0]}, {"t": values[4]}, clusters=c),
        found.detectable,
        found.needed(0.01),
    ),
    "rerun": lambda values, c: rerun({"t": values[0]}, {"t": values[1]}, clusters=c),
    "hypervolume": lambda values, c: hypervolume_interval(
        {"t": values, "u": values[::-1]},
        bootstrap_means({"t": values, "u": values[::-1]}, clusters=c, n_resamples=50),
        np.array([0.0, 0.0]),
        clusters=c,
    ),
}


def flat(found: Any) -> list[float]:
    if isinstance(found, (tuple, list)):
        return [number for part in found for number in flat(part)]
    if isinstance(found, (float, int, np.ndarray)):
        return np.ravel(found).astype(float).tolist()
    return [number for part in vars(found).values() if part is not None for number in flat(part)]


@pytest.mark.parametrize("how", REPEATED)
@pytest.mark.parametrize("kind", ["zeros and ones", "thirds", "graded"])
@pytest.mark.parametrize("name", STATISTICS)
def test_ten_copies_of_every_example_say_what_one_says(name: str, kind: str, how: str) -> None:
    values = answers(kind)
    once = flat(STATISTICS[name](values, None))
    named = {task: clusters_of(REPEATED[how]) for task in ("t", "u")}
    assert flat(STATISTICS[name](repeated(values, how), named)) == pytest.approx(once, rel=1e-9)
    assert flat(STATISTICS[name](values, {"t": clusters_of(ONCE), "u": clusters_of(ONCE)})) == once


def test_copies_that_were_not_scored_are_left_out() -> None:
    values = np.array([1.0, np.nan, 0.0, 1.0])
    found = estimate({"t": values}, clusters={"t": clusters_of(content_ids(["a", "a", "b", "c"]))})
    assert found == estimate({"t": np.array([1.0, 0.0, 1.0])})


def test_a_mean_counts_copies_and_its_error_does_not() -> None:
    examples = sample(np.array([1.0, 1.0, 1.0, 0.0]), clusters_of(content_ids(["a", "a", "A ", "b"])))
    assert (examples.size, examples.mean) == (2, 0.75)
    assert examples.effective == pytest.approx(16 / 10)  # (3 + 1)^2 / (3^2 + 1^2)


def test_an_example_that_occurs_more_often_weighs_more_in_the_exact_test() -> None:
    # Three wins, one of an example that occurs twice, and a loss: of 16 outcomes, 3 lie as far out on either side.
    a, b = np.array([1.0, 1.0, 1.0, 1.0, 0.0]), np.array([0.0, 0.0, 0.0, 0.0, 1.0])
    gap = difference({"t": a}, {"t": b}, clusters={"t": clusters_of(content_ids(["a", "a", "b", "c", "d"]))})
    signs = np.array(np.meshgrid(*[[-1, 1]] * 4)).reshape(4, -1)
    far = np.abs(np.array([2, 1, 1, 1]) @ signs) >= 3
    assert gap.p == pytest.approx(far.mean())


@pytest.mark.parametrize("graded", [False, True])
def test_intervals_and_tests_hold_where_some_examples_repeat(graded: bool) -> None:
    """Equally good models; every third example occurs up to six times. Counted one by one, a sixth seems to differ."""
    rng = np.random.default_rng(5)
    covered, means, claimed, naive = [], [], [], []
    for _ in range(400):
        counts = np.where(np.arange(90) % 3 == 0, rng.integers(2, 7, 90), 1)
        ids = content_ids([str(n) for n, count in enumerate(counts) for _ in range(count)])
        chances = rng.random(90)
        a, b = ((rng.random(90) < chances) + graded * rng.normal(0, 0.2, 90) for _ in range(2))
        pair = tuple({"t": np.repeat(values, counts).astype(float)} for values in (a, b))
        gap: Difference = difference(*pair, clusters={"t": clusters_of(ids)})
        covered.append(gap.interval[0] <= 0 <= gap.interval[1])
        claimed.append(gap.p < 0.05)
        naive.append(difference(*pair).p < 0.05)
        low, high = estimate(pair[0], clusters={"t": clusters_of(ids)}).interval
        means.append(low <= 0.5 <= high)
    assert 0.93 <= np.mean(covered) <= 0.97, np.mean(covered)
    assert 0.93 <= np.mean(means) <= 0.97, np.mean(means)
    assert np.mean(claimed) <= 0.06, np.mean(claimed)
    assert np.mean(naive) > 0.15, np.mean(naive)
