import numpy as np
import pytest
import torch
from torch import Tensor

from evomerge.merging.method import MethodError
from tests.contracts.merge_method import MergeMethodContract, fixed, merged, random_models

A, B, C = ([0, 0.5, 1, 0, 0, 0], [0, 0.25, 0, 2, 0, 0], [0, 0, 3, 0, 0, -1.0])


class TestRam(MergeMethodContract):
    name = "ram"
    values = fixed({"weight": [0.3, 0.9, 0.5], "scale": 0.8})
    one_hot = fixed({"epsilon": 0.0})
    scales = False  # epsilon is in units of the weights


@pytest.mark.slow
class TestRamWithoutEpsilon(MergeMethodContract):
    name = "ram"
    values = fixed({"weight": [0.3, 0.9, 0.5], "epsilon": 0.0})
    one_hot = fixed({"epsilon": 0.0})
    averages = True
    hull = True


def delta(values: dict[str, object], inputs: list[list[float]]) -> Tensor:
    return merged("ram", torch.zeros(6), [torch.tensor(row) for row in inputs], values)


def test_worked_example() -> None:
    assert delta({}, [A, B, C]).tolist() == [0, 0.375, 2, 2, 0, -1]


def test_epsilon_itself_is_no_change() -> None:
    assert delta({"epsilon": 0.25}, [A, B, C]).tolist() == [0, 0.5, 2, 2, 0, -1]


def test_a_weight_of_zero_takes_no_part() -> None:
    assert delta({"weight": [0, 1, 1]}, [A, B, C]).tolist() == [0, 0.25, 3, 2, 0, -1]
    assert delta({"weight": [0, 0, 0]}, [A, B, C]).tolist() == [0] * 6


def test_against_whole_tensors_in_float64() -> None:
    base, *inputs = random_models(5, 3, torch.bfloat16, (70, 1003))
    values = {"weight": [0.5, 1.0, 0.25], "scale": 1.5, "epsilon": 0.02}
    deltas = np.stack([(model.double() - base.double()).numpy() for model in inputs])
    shares = np.array([0.5, 1, 0.25])[:, None, None] * (np.abs(deltas) > np.float32(0.02))
    total = shares.sum(0)
    expected = base.double() + 1.5 * torch.from_numpy((shares * deltas).sum(0) / np.where(total == 0, 1, total))
    result = merged("ram", base, inputs, values, dtype=torch.float32)
    torch.testing.assert_close(result.double(), expected, rtol=1e-6, atol=1e-6)


def test_negative_weights_are_refused() -> None:
    with pytest.raises(MethodError, match=r"x: weights must not be negative here; they are \[1.0, -1.0, 1.0\]"):
        delta({"weight": [1, -1, 1]}, [A, B, C])
