import torch

from tests.contracts.merge_method import MergeMethodContract, fixed, merged, random_models
from tests.evomerge.merging.vectors import check, merged_delta


class TestWiseFt(MergeMethodContract):
    name = "wise_ft"
    n_inputs = 1
    values = fixed({"t": 0.3})
    one_hot = fixed({"t": 1.0})
    permutes = False  # there is one input
    hull = True


def test_is_a_weighted_average_of_the_two() -> None:
    check(merged_delta("wise_ft", {"t": 0.25}, n_inputs=1), [1, -0.75, 0.5, 0.25, 0.025, -0.125])


def test_zero_is_exactly_the_base() -> None:
    base, other = random_models(0, 1, torch.bfloat16)
    assert torch.equal(merged("wise_ft", base, [other], {"t": 0}), base)
