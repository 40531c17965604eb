import torch

from tests.contracts.merge_method import MergeMethodContract, fixed
from tests.evomerge.merging.vectors import BASE, check, merged_delta


class TestTaskArithmetic(MergeMethodContract):
    name = "task_arithmetic"
    values = fixed({"weight": [0.3, -0.2, 0.8], "scale": 1.1})


class TestNormalizedTaskArithmetic(MergeMethodContract):
    name = "task_arithmetic"
    options = fixed({"normalize": True})
    values = fixed({"weight": [0.3, 0.2, 0.8]})
    averages = True
    linear = False


def test_worked_examples() -> None:
    check(merged_delta("task_arithmetic", {"weight": [0.5, 0.3, 0.2]}) + BASE, [3.1, -1.37, 1.44, 1.2, 1.15, 0.95])
    check(merged_delta("task_arithmetic", {"scale": 0.4}) + BASE, [3.0, -1.24, 0.52, 1.04, 0.84, 1.1])


def test_weights_that_cancel_are_not_normalized() -> None:
    plain = merged_delta("task_arithmetic", {"weight": [1, -1]}, n_inputs=2)
    guarded = merged_delta("task_arithmetic", {"weight": [1, -1]}, n_inputs=2, options={"normalize": True})
    assert torch.equal(plain, guarded)


def test_weights_that_sum_to_one_average_the_models() -> None:
    values = fixed({"weight": [0.5, 0.3, 0.2]})
    torch.testing.assert_close(merged_delta("task_arithmetic", values), merged_delta("linear", values))
