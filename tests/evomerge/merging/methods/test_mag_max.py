import torch

from tests.contracts.merge_method import MergeMethodContract, fixed, merged
from tests.evomerge.merging.vectors import check, merged_delta


class TestMagMax(MergeMethodContract):
    name = "mag_max"
    values = fixed({"scale": 0.8})
    one_hot = None  # there are no weights
    hull = True


def test_the_largest_of_each_element() -> None:
    check(merged_delta("mag_max", {"scale": 1.0}), [4, -3.5, -4, -1.2, -2.5, 0.5])


def test_of_opposite_deltas_the_positive_one_whatever_the_order() -> None:
    zero, delta = torch.zeros(2), torch.tensor([1.0, -2.0])
    for inputs in ([delta, -delta], [-delta, delta]):
        assert merged("mag_max", zero, inputs, {"scale": 1.0}).tolist() == [1.0, 2.0]
