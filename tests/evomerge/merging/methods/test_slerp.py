import pytest
import torch
from torch import Tensor

from evomerge.merging.method import MethodError
from tests.contracts.merge_method import MergeMethodContract, fixed, merged, random_models
from tests.evomerge.merging.vectors import check


class TestSlerp(MergeMethodContract):
    name = "slerp"
    n_inputs = 1
    values = fixed({"t": 0.3})
    one_hot = fixed({"t": 1.0})
    permutes = False  # there is one input
    translates = False  # the angle is between the models themselves
    rotates = True


def slerp(a: list[float], b: list[float], t: float) -> Tensor:
    base, other = (torch.tensor(values, dtype=torch.float32) for values in (a, b))
    return merged("slerp", base, [other], {"t": t})


def test_worked_examples() -> None:
    check(slerp([3, 0, 4], [0, 10, 0], 0.25), [2.771638, 3.826835, 3.695518])
    check(slerp([3, 0, 4], [0, 10, 0], 0.5), [2.12132, 7.071068, 2.828427])


def test_colinear_and_opposite_models_are_interpolated_linearly() -> None:
    check(slerp([1, 2], [2, 4], 0.5), [1.5, 3])
    check(slerp([1, 2], [-1, -2], 0.25), [0.5, 1])


def test_a_model_of_zeros_has_no_direction() -> None:
    check(slerp([3, 4], [0, 0], 0.5), [3 * 0.5**0.5, 4 * 0.5**0.5])


def test_zero_is_exactly_the_base() -> None:
    base, other = random_models(0, 1, torch.bfloat16)
    assert torch.equal(merged("slerp", base, [other], {"t": 0}), base)


def test_there_and_back_is_the_same_and_scales() -> None:
    a, b = random_models(0, 1, torch.float32)
    b = torch.randn(a.shape, generator=torch.Generator().manual_seed(4))
    result = merged("slerp", a, [b], {"t": 0.2})
    torch.testing.assert_close(merged("slerp", b, [a], {"t": 0.8}), result)
    assert torch.equal(merged("slerp", a * 4, [b * 4], {"t": 0.2}), result * 4)


def test_two_models_are_too_many() -> None:
    base, *inputs = random_models(0, 2, torch.float32)
    with pytest.raises(MethodError, match=r"slerp merges exactly 1 model.*got 2"):
        merged("slerp", base, inputs, {"t": 0.5})
