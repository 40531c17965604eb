import torch

from tests.contracts.merge_method import MergeMethodContract, fixed, merged, random_models
from tests.evomerge.merging.vectors import check, merged_delta


class TestExpo(MergeMethodContract):
    name = "expo"
    n_inputs = 1
    values = fixed({"alpha": 0.3})
    one_hot = fixed({"alpha": 0.0})
    permutes = False  # there is one input


def test_goes_beyond_the_model_by_alpha() -> None:
    check(merged_delta("expo", {"alpha": 0.5}, n_inputs=1), [6, -4.5, 3, 1.5, 0.15, -0.75])


def test_is_wise_ft_beyond_one() -> None:
    base, other = random_models(0, 1, torch.float32)
    beyond = merged("wise_ft", base, [other], {"t": 1.25})
    torch.testing.assert_close(merged("expo", base, [other], {"alpha": 0.25}), beyond)
