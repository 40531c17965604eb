import numpy as np
import torch

from tests.contracts.merge_method import MergeMethodContract, fixed, merged, random_models
from tests.evomerge.merging.vectors import check, merged_delta


class TestMagnitudePrune(MergeMethodContract):
    name = "magnitude_prune"
    values = fixed({"weight": [0.3, -0.9, 0.5], "density": [0.4, 0.7, 1.0], "scale": 0.8})
    one_hot = fixed({"density": [1.0, 1.0, 1.0]})


def test_the_largest_of_every_delta_are_added() -> None:
    # Of 6 elements, 3, 2 and all.
    values = {"weight": [1, 2, -1], "density": [0.5, 0.34, 1]}
    check(merged_delta("magnitude_prune", values), [2, -10.9, 6, -0.3, 6.5, -0.25])


def test_density_one_is_task_arithmetic() -> None:
    values = {"weight": [0.5, 0.3, 0.2], "scale": 0.9}
    result = merged_delta("magnitude_prune", {**values, "density": [1] * 3})
    assert torch.equal(result, merged_delta("task_arithmetic", values))


def test_small_tensors_may_keep_nothing() -> None:
    assert merged_delta("magnitude_prune", {"density": [0.1] * 3}).tolist() == [0] * 6


def test_exactly_k_are_kept_the_first_of_equals() -> None:
    base, other = random_models(4, 1, torch.bfloat16, (300, 1001))
    delta = (other.double() - base.double()).flatten().numpy()
    kept = np.zeros_like(delta)
    order = np.argsort(-np.abs(delta), kind="stable")[: int(0.3 * delta.size)]
    kept[order] = delta[order]
    result = merged("magnitude_prune", base, [other], {"density": 0.3}, dtype=torch.float32)
    np.testing.assert_array_equal(result.double().flatten().numpy() - base.double().flatten().numpy(), kept)
