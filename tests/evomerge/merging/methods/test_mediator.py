import pytest
import torch

from evomerge.merging.method import MethodError
from tests.contracts.merge_method import MergeMethodContract, fixed, merged, random_models
from tests.evomerge.merging.vectors import check, merged_delta


class TestMediatorAverages(MergeMethodContract):
    name = "mediator"
    values = fixed({"weight": [0.3, 0.9, 0.5], "threshold": 1.0})
    averages = True
    hull = True


@pytest.mark.slow
class TestMediatorChooses(MergeMethodContract):
    name = "mediator"
    options = fixed({"score": "magnitudes"})
    values = fixed({"weight": [0.3, 0.9, 0.5], "threshold": 0.0})
    averages = True  # experts that agree are no conflict
    hull = True


def test_below_the_threshold_models_are_averaged_above_the_longest_delta_wins() -> None:
    # Of 6 elements, all are changed by two models or more, 5 of them in opposite directions (all but 4, 1.2 ...).
    average = [2 / 3 * (4 - 1 + 2) / 2, -5.6 / 3, -1.2 / 3, 0.1 / 3, -0.4 / 3, 0.25 / 3]
    check(merged_delta("mediator", {"threshold": 1.0}), [5 / 3, *average[1:]])
    lengths = [merged_delta("task_arithmetic", {"weight": [float(i == j) for j in range(3)]}).norm() for i in range(3)]
    assert lengths[0] > max(lengths[1:])
    check(merged_delta("mediator", {"threshold": 0.9}), [4, -3, 2, 1, 0.1, -0.5])
    check(merged_delta("mediator", {"threshold": 0.9, "weight": [0.1, 0.1, 1]}), [2, 0.9, -4, 0.3, -2.5, 0.25])


A = torch.tensor([1.0, -1, 2, 0, 4, 1])
B = torch.tensor([1.0, 1, 0, 0, 2, -1])


@pytest.mark.parametrize(
    ("score", "conflict"),
    # Two of the four elements that both change go opposite ways; 2 - 0 + 2 - 0 of 14 are lost in the sum.
    [("signs", 2 / 4), ("magnitudes", 4 / 14)],
)
def test_the_two_scores(score: str, conflict: float) -> None:
    average, first = (A + B) / 2, A
    for threshold, expected in ((conflict - 1e-6, first), (conflict + 1e-6, average)):
        result = merged("mediator", torch.zeros(6), [A, B], {"threshold": threshold}, options={"score": score})
        torch.testing.assert_close(result, expected)


def test_a_weight_of_zero_takes_no_part_in_the_conflict() -> None:
    base, *inputs = random_models(0, 2, torch.bfloat16)
    opposed = 2 * base - inputs[0]
    values = {"weight": [1, 1, 0], "threshold": 0.6}
    pair = merged("mediator", base, inputs, {"threshold": 0.6})
    assert torch.equal(merged("mediator", base, [*inputs, opposed], values), pair)
    assert torch.equal(merged("mediator", base, inputs, {"weight": [0, 0]}), base)


def test_negative_weights_are_refused() -> None:
    with pytest.raises(MethodError, match="must not be negative"):
        merged_delta("mediator", {"weight": [1, -1, 1]})
