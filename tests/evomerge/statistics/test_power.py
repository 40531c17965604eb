"""What is said to be found 4 times out of 5 is, by the test that the report uses."""

import numpy as np
import pytest

from evomerge.statistics import detectable, difference, power


def pair(rng: np.random.Generator, n: int, disagreement: float, delta: float) -> tuple[np.ndarray, np.ndarray]:
    """Two models that disagree on a share of the examples, the first better by delta."""
    draw = rng.random(n)
    a = (draw < (disagreement + delta) / 2).astype(float)
    b = ((draw >= (disagreement + delta) / 2) & (draw < disagreement)).astype(float)
    return a, b


@pytest.mark.parametrize(("n", "disagreement"), [(200, 0.2), (600, 0.3)])
def test_detectable_differences_are_found_4_times_out_of_5(n: int, disagreement: float) -> None:
    rng = np.random.default_rng(n)
    delta = detectable(disagreement, n)
    found = []
    for _ in range(500):
        a, b = pair(rng, n, disagreement, delta)
        found.append(difference({"t": a}, {"t": b}).shown)
    assert 0.75 <= np.mean(found) <= 0.87


def test_power_is_measured_from_two_models() -> None:
    rng = np.random.default_rng(0)
    a, b = pair(rng, 4000, 0.25, 0.0)
    found = power({"t": a}, {"t": b})
    assert found.disagreement == pytest.approx(np.mean(a != b))
    assert found.detectable == pytest.approx(detectable(found.disagreement, 4000), rel=0.01)
    needed = found.needed(0.01)
    assert needed == pytest.approx(7.85 * 0.25 / 0.01**2, rel=0.05)
    # Twice the tasks of half the weight and as many examples each: the same spread per example, twice the examples.
    both = power({"t": a / 2, "u": a / 2}, {"t": b / 2, "u": b / 2})
    assert both.n_examples == 8000
    assert both.detectable == pytest.approx(found.detectable / np.sqrt(2), rel=0.01)
    assert both.needed(0.01) == pytest.approx(needed, rel=0.01)


def test_models_that_never_differed_do_not_make_every_difference_detectable() -> None:
    same = power({"t": np.ones(50)}, {"t": np.ones(50)})
    assert same.disagreement == 0
    assert 0.03 < same.detectable < 0.1
