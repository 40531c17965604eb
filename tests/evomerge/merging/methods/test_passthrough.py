import torch

from tests.contracts.merge_method import MergeMethodContract, fixed, merged


class TestPassthrough(MergeMethodContract):
    name = "passthrough"
    n_inputs = 1
    values = fixed({"scale": [0.5]})
    permutes = False  # there is one input
    translates = False  # the whole model is scaled, not its delta
    keeps = False  # likewise


def test_scale() -> None:
    base, other = torch.ones(3), torch.tensor([1.0, -2.0, 3.0])
    assert merged("passthrough", base, [other], {}).tolist() == [1, -2, 3]
    assert merged("passthrough", base, [other], {"scale": [0.25]}).tolist() == [0.25, -0.5, 0.75]
    assert merged("passthrough", base, [other], {"scale": [0]}).tolist() == [0, 0, 0]
