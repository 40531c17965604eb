import pytest
import torch

from evomerge.merging.method import MethodError
from tests.contracts.merge_method import MergeMethodContract, fixed, merged, random_models


class TestNearSwap(MergeMethodContract):
    name = "nearswap"
    smooth = False  # elements reach the other model at some t
    n_inputs = 1
    values = fixed({"t": 0.03})
    one_hot = fixed({"t": 10.0})
    permutes = False  # there is one input
    scales = False  # t is in units of the weights
    hull = True


def test_worked_example() -> None:
    other = torch.tensor([0.25, 0.5, 1, -2])
    assert merged("nearswap", torch.zeros(4), [other], {"t": 0.5}).tolist() == [0.25, 0.5, 0.5, -0.5]


def test_moves_by_at_most_t() -> None:
    base, other = random_models(0, 1, torch.float32, (100, 1000))
    moved = merged("nearswap", base, [other], {"t": 2**-5}) - base
    assert float(moved.abs().max()) <= 2**-5 + 1e-6
    near = (other - base).abs() < 2**-6
    assert torch.equal((base + moved)[near], other[near])


def test_zero_is_the_base_and_less_is_refused() -> None:
    base, other = random_models(0, 1, torch.bfloat16)
    assert torch.equal(merged("nearswap", base, [other], {"t": 0}), base)
    with pytest.raises(
        MethodError, match=r"x: t, the distance that a weight may move, must be at least 0; it is -0\.1"
    ):
        merged("nearswap", base, [other], {"t": -0.1})
