import numpy as np
import pytest
import torch
from torch import Tensor

from evomerge.merging.method import MethodError
from tests.contracts.merge_method import MergeMethodContract, fixed, merged, random_models
from tests.evomerge.merging.vectors import check

A, C, D = torch.tensor([3.0, 0, 4]), torch.tensor([0.0, 10, 0]), torch.tensor([0.0, 0, 2])
ZERO = torch.zeros(3)


class TestKarcher(MergeMethodContract):
    name = "karcher"
    values = fixed({"weight": [0.2, 0.5, 0.4]})
    averages = True
    translates = False  # without a base there are no deltas
    rotates = True


def reference(models: list[Tensor], weight: list[float]) -> Tensor:
    """The minimiser of the weighted squared angles, by many small steps along their gradient, in float64."""
    flat = [model.double().flatten() for model in models]
    lengths = [vector.norm() for vector in flat]
    shares = np.array(weight) / sum(weight)
    units = [vector / length for vector, length in zip(flat, lengths, strict=True)]
    mean = sum(share * unit for share, unit in zip(shares, units, strict=True))
    assert isinstance(mean, Tensor)
    for _ in range(2000):
        mean = mean / mean.norm()
        step = torch.zeros_like(mean)
        for share, unit in zip(shares, units, strict=True):
            across = unit - (unit @ mean) * mean
            step += share * torch.atan2(across.norm(), unit @ mean) * across / across.norm()
        mean = mean + 0.1 * step
    mean = mean / mean.norm()
    length = sum(float(share * length) for share, length in zip(shares, lengths, strict=True))
    return (mean * length).view(models[0].shape)


def test_worked_examples() -> None:
    check(merged("karcher", ZERO, [A, C], {}), [3.181981, 5.303301, 4.242641])
    check(merged("karcher", ZERO, [A, C, D], {}), [1.540184, 2.896456, 4.620551])
    converged = fixed({"max_iter": 50, "tol": 1e-9})
    check(merged("karcher", ZERO, [A, C, D], {}, options=converged), [1.540183, 2.89646, 4.620549])


def test_a_single_step_goes_along_the_great_circle() -> None:
    units = [model.double() / model.norm() for model in (A, C, D)]
    mean = sum(units, start=ZERO.double())
    mean = mean / mean.norm()
    angles = [torch.acos(unit @ mean) for unit in units]
    pulls = [a / torch.sin(a) * (u - torch.cos(a) * mean) / 3 for a, u in zip(angles, units, strict=True)]
    tangent = sum(pulls, start=ZERO.double())
    expected = torch.cos(tangent.norm()) * mean + torch.sin(tangent.norm()) * tangent / tangent.norm()
    length = (5 + 10 + 2) / 3
    result = merged("karcher", ZERO, [A, C, D], {}, options={"max_iter": 1}).double()
    torch.testing.assert_close(result, expected * length, rtol=1e-6, atol=1e-6)
    unmoved = merged("karcher", ZERO, [A, C, D], {}, options={"max_iter": 0}).double()
    torch.testing.assert_close(unmoved, mean * length, rtol=1e-6, atol=1e-6)


def test_two_models_meet_where_multislerp_does() -> None:
    expected = merged("multislerp", ZERO, [A, C], {})
    torch.testing.assert_close(merged("karcher", ZERO, [A, C], {}), expected)


@pytest.mark.parametrize("seed", range(4))
def test_against_the_minimum_of_the_squared_angles(seed: int) -> None:
    base, *inputs = random_models(seed, 4, torch.float32, (3, 5))
    inputs = [
        model + 0.7 * torch.randn(3, 5, generator=torch.Generator().manual_seed(seed)) * i
        for i, model in enumerate(inputs)
    ]
    weight = [0.3, 0.1, 0.7, 0.4]
    result = merged("karcher", base, inputs, {"weight": weight}, options={"max_iter": 60, "tol": 1e-9})
    torch.testing.assert_close(result.double(), reference(inputs, weight), rtol=1e-5, atol=1e-5)


def test_a_model_of_zeros_has_a_length_but_no_direction() -> None:
    check(merged("karcher", A, [A, ZERO], {}), [1.5, 0, 2])
    check(merged("karcher", A, [ZERO, ZERO], {}), [0, 0, 0])
    small = torch.tensor([1e-6, 2e-6, -1e-6])
    torch.testing.assert_close(merged("karcher", A, [small, small * 3], {}), small * 2)


def test_opposite_models_give_the_first_ones_direction() -> None:
    check(merged("karcher", ZERO, [A, -A], {}), [3, 0, 4])
    almost = -A + torch.tensor([1e-6, 0, 0])
    assert bool(torch.isfinite(merged("karcher", ZERO, [A, almost, C], {"weight": [1, 1, 0.1]})).all())


def test_weights_that_cancel_and_bad_options_are_refused() -> None:
    with pytest.raises(MethodError, match=r"x: the weights \[1.0, -1.0\] add up to 0"):
        merged("karcher", ZERO, [A, C], {"weight": [1, -1]})
    with pytest.raises(MethodError, match=r"max_iter >= 0 and tol > 0; they are -1 and 1e-05"):
        merged("karcher", ZERO, [A, C], {}, options={"max_iter": -1})
