import pytest

from evomerge.merging.method import MethodError
from tests.contracts.merge_method import MergeMethodContract, fixed
from tests.evomerge.merging.vectors import BASE, check, merged_delta


class TestLinear(MergeMethodContract):
    name = "linear"
    values = fixed({"weight": [0.2, 0.5, 0.4]})
    averages = True
    hull = True
    linear = False  # weights are normalized


@pytest.mark.slow
class TestLinearWithoutNormalization(MergeMethodContract):
    name = "linear"
    options = fixed({"normalize": False})
    values = fixed({"weight": [0.2, -0.5, 0.4]})
    translates = False  # models are added up: X counts as often as the weights say
    keeps = False  # likewise


def test_worked_example() -> None:
    check(merged_delta("linear", {"weight": [2, 1, 1]}) + BASE, [3.25, -1.15, 1.2, 1.275, 0.925, 0.9375])


def test_worked_example_of_a_uniform_soup() -> None:
    check(merged_delta("linear", {}), [1.666667, -1.866667, -0.4, 0.033333, -0.133333, 0.083333])


def test_only_the_ratio_of_weights_matters() -> None:
    check(merged_delta("linear", {"weight": [8, 4, 4]}) + BASE, [3.25, -1.15, 1.2, 1.275, 0.925, 0.9375])


def test_weights_that_cancel_are_refused() -> None:
    with pytest.raises(MethodError, match=r"x: the weights \[1.0, -1.0\] add up to 0"):
        merged_delta("linear", {"weight": [1, -1]}, n_inputs=2)
