import pytest
import torch

from tests.contracts.merge_method import MergeMethodContract, fixed, merged
from tests.evomerge.merging.vectors import BASE, check, merged_delta


class TestTaskArithmetic(MergeMethodContract):
    name = "task_arithmetic"
    values = fixed({"weight": [0.3, -0.2, 0.8], "scale": 1.1})


@pytest.mark.slow
class TestNormalizedTaskArithmetic(MergeMethodContract):
    name = "task_arithmetic"
    options = fixed({"normalize": True})
    values = fixed({"weight": [0.3, 0.2, 0.8]})
    averages = True
    hull = True
    linear = False  # weights are normalized


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


def test_small_deltas_to_large_weights_are_summed_up_in_float32() -> None:
    """In the checkpoints' bfloat16 the weighted deltas would be lost, or rounded up to 1.0078125."""
    base, delta = torch.ones(3).bfloat16(), torch.tensor([2.0**-6, 2.0**-7, 0])
    result = merged("task_arithmetic", base, [(1 + delta).bfloat16()], {"weight": 0.3}, dtype=torch.float32)
    torch.testing.assert_close(result, torch.tensor([1.0046875, 1.00234375, 1]), rtol=0, atol=1e-7)
