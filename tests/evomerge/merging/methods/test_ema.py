import pytest
import torch

from evomerge.merging.method import MethodError
from tests.contracts.merge_method import MergeMethodContract, fixed, merged, random_models
from tests.evomerge.merging.vectors import check


class TestEma(MergeMethodContract):
    name = "ema"
    values = fixed({"rate": 0.7})
    one_hot = None  # the rate says how much each checkpoint counts
    averages = True
    permutes = False  # checkpoints are in order
    hull = True


def test_coefficients() -> None:
    unit = [torch.eye(4)[index] for index in range(4)]
    check(merged("ema", torch.zeros(4), unit, {"rate": 0.9}), [0.729, 0.081, 0.09, 0.1])


def test_is_what_is_kept_while_training() -> None:
    base, *inputs = random_models(0, 5, torch.float32)
    average = inputs[0].double()
    for checkpoint in inputs[1:]:
        average = 0.8 * average + 0.2 * checkpoint.double()
    result = merged("ema", base, inputs, {"rate": 0.8})
    torch.testing.assert_close(result.double(), average, rtol=1e-6, atol=1e-6)


def test_the_ends_are_checkpoints_bit_for_bit() -> None:
    base, *inputs = random_models(0, 3, torch.bfloat16)
    assert torch.equal(merged("ema", base, inputs, {"rate": 0}), inputs[2])
    assert torch.equal(merged("ema", base, inputs, {"rate": 1}), inputs[0])


def test_a_rate_that_is_no_share_is_refused() -> None:
    base, *inputs = random_models(0, 2, torch.float32)
    with pytest.raises(MethodError, match=r"between 0 and 1; it is 1\.5"):
        merged("ema", base, inputs, {"rate": 1.5})
