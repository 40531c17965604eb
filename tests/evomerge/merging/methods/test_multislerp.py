import pytest
import torch

from evomerge.merging.method import MethodError
from tests.contracts.merge_method import MergeMethodContract, fixed, merged
from tests.evomerge.merging.vectors import check

A, C, D = torch.tensor([3.0, 0, 4]), torch.tensor([0.0, 10, 0]), torch.tensor([0.0, 0, 2])
ZERO = torch.zeros(3)
DELTAS = fixed({"relative_to_base": True})


class TestMultislerp(MergeMethodContract):
    name = "multislerp"
    values = fixed({"weight": [0.2, 0.5, 0.4]})
    averages = True
    translates = False  # directions are those of the models themselves
    rotates = True


@pytest.mark.slow
class TestMultislerpOfDeltas(MergeMethodContract):
    name = "multislerp"
    options = DELTAS
    values = fixed({"weight": [0.2, -0.5, 0.4]})
    averages = True
    rotates = True


@pytest.mark.slow
class TestMultislerpWithoutNormalization(MergeMethodContract):
    name = "multislerp"
    options = fixed({"relative_to_base": True, "normalize": False})
    values = fixed({"weight": [0.2, 0.5, 0.4]})
    rotates = True


@pytest.mark.parametrize(
    ("models", "weight", "expected"),
    [
        ((A, C), [1, 1], [3.181981, 5.303301, 4.242641]),
        ((A, C), [3, 1], [3.557562, 1.976423, 4.743416]),
        ((A, C, D), [1, 1, 1], [1.585258, 2.642097, 4.755774]),
        ((A, C, D), [1, 0, 0], [3, 0, 4]),
    ],
)
def test_worked_examples(models: tuple[torch.Tensor, ...], weight: list[float], expected: list[float]) -> None:
    check(merged("multislerp", ZERO, models, {"weight": weight}), expected)


def test_worked_example_relative_to_the_base() -> None:
    base = torch.full((3,), 0.5)
    check(merged("multislerp", base, [A, C, D], {}, options=DELTAS), [1.151508, 2.19259, 5.343123])


def test_without_normalization_weights_scale() -> None:
    once = merged("multislerp", ZERO, [A, C], {"weight": [0.5, 0.5]})
    options = fixed({"normalize": False})
    torch.testing.assert_close(merged("multislerp", ZERO, [A, C], {"weight": [1, 1]}, options=options), once * 2)


@pytest.mark.parametrize("models", [(A, -A), (A, -A / 2, C * 0)])
def test_directions_that_cancel_are_added_up_linearly(models: tuple[torch.Tensor, ...]) -> None:
    result = merged("multislerp", ZERO, models, {})
    torch.testing.assert_close(result, sum(models, start=ZERO) / len(models), rtol=1e-6, atol=1e-7)
    base = torch.tensor([1.0, 2, 3])
    moved = merged("multislerp", base, [base + model for model in models], {}, options=DELTAS)
    torch.testing.assert_close(moved, base + sum(models, start=ZERO) / len(models), rtol=1e-6, atol=1e-6)


def test_three_models_that_left_a_tensor_alone() -> None:
    for options in (fixed({}), DELTAS):
        assert torch.equal(merged("multislerp", A, [A, A, A], {}, options=options), A)


def test_weights_that_cancel_are_refused() -> None:
    with pytest.raises(MethodError, match=r"x: the weights \[1.0, -1.0\] add up to 0"):
        merged("multislerp", ZERO, [A, C], {"weight": [1, -1]})
    assert torch.equal(merged("multislerp", D, [A, C], {"weight": [0, 0]}, options=DELTAS), D)
