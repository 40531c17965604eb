import pytest
import torch

from evomerge.merging.method import MethodError
from tests.contracts.merge_method import MergeMethodContract, fixed, merged, random_models
from tests.evomerge.merging.vectors import check

A, C = torch.tensor([3.0, 0, 4]), torch.tensor([0.0, 10, 0])
BY_ROW = fixed({"flatten": False})
BY_COLUMN = fixed({"flatten": False, "row_wise": False})


class TestNuslerp(MergeMethodContract):
    name = "nuslerp"
    n_inputs = 2
    values = fixed({"weight": [0.3, 0.5]})
    averages = True
    translates = False  # the angle is between the models themselves
    rotates = True


@pytest.mark.slow
class TestNuslerpOfDeltas(MergeMethodContract):
    name = "nuslerp"
    n_inputs = 2
    options = fixed({"relative_to_base": True})
    values = fixed({"weight": [0.3, 0.5]})
    averages = True
    rotates = True


@pytest.mark.slow
class TestNuslerpByRow(MergeMethodContract):
    name = "nuslerp"
    n_inputs = 2
    options = fixed({**BY_ROW, "relative_to_base": True})
    values = fixed({"weight": [0.3, 0.5]})
    averages = True


@pytest.mark.slow
class TestNuslerpByColumn(MergeMethodContract):
    name = "nuslerp"
    n_inputs = 2
    options = BY_COLUMN
    values = fixed({"weight": [0.3, 0.5]})
    averages = True
    translates = False  # as above


def test_is_slerp_at_the_second_ones_share() -> None:
    result = merged("nuslerp", torch.zeros(3), [A, C], {"weight": [3, 1]})
    check(result, [2.771638, 3.826835, 3.695518])
    torch.testing.assert_close(result, merged("slerp", A, [C], {"t": 0.25}), rtol=1e-6, atol=1e-7)


def test_weights_that_cancel_meet_half_way() -> None:
    check(merged("nuslerp", torch.zeros(3), [A, C], {"weight": [1, -1]}), [2.12132, 7.071068, 2.828427])


def test_worked_example_relative_to_the_base() -> None:
    options = fixed({"relative_to_base": True})
    check(merged("nuslerp", torch.ones(3), [A, C], {}, options=options), [1.921121, 8.368971, 2.842243])


def test_worked_example_by_row_and_by_column() -> None:
    first, second = torch.tensor([[3.0, 0], [0, 1]]), torch.tensor([[0.0, 2], [1, 0]])
    result = merged("nuslerp", torch.zeros(2, 2), [first, second], {}, options=BY_ROW)
    torch.testing.assert_close(result, torch.tensor([[2.12132, 1.414214], [0.707107, 0.707107]]), rtol=0, atol=2e-6)
    turned = merged("nuslerp", torch.zeros(2, 2), [first.T, second.T], {}, options=BY_COLUMN)
    assert torch.equal(turned, result.T)


@pytest.mark.parametrize("options", [fixed({}), BY_ROW, BY_COLUMN])
def test_rows_and_columns_are_interpolated_separately(options: dict[str, bool]) -> None:
    """Rows and columns against the same method on each of them alone, in float64 angles."""
    base, *_ = random_models(0, 2, torch.float32, (11, 17))
    models = [torch.randn(11, 17, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2)]
    values = {"weight": [0.3, 0.5]}
    result = merged("nuslerp", base, models, values, options=options)
    if not options:
        parts = [merged("nuslerp", base.view(-1), [m.view(-1) for m in models], values).view(11, 17)]
    elif "row_wise" in options:
        parts = [merged("nuslerp", base[:, i : i + 1], [m[:, i : i + 1] for m in models], values) for i in range(17)]
        parts = [torch.cat(parts, 1)]
    else:
        parts = [merged("nuslerp", base[i : i + 1], [m[i : i + 1] for m in models], values) for i in range(11)]
        parts = [torch.cat(parts)]
    torch.testing.assert_close(result, parts[0], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("options", [fixed({}), BY_ROW, BY_COLUMN])
def test_parallel_opposite_and_empty_vectors_are_interpolated_linearly(options: dict[str, bool]) -> None:
    zero = torch.zeros(3, 3)
    first = torch.tensor([[1.0, 2, 3], [2, 4, 6], [0, 0, 0]])
    values = {"weight": [3, 1]}
    torch.testing.assert_close(merged("nuslerp", zero, [first, first * 2], values, options=options), first * 1.25)
    torch.testing.assert_close(merged("nuslerp", zero, [first, -first], values, options=options), first * 0.5)
    with_zeros = merged("nuslerp", zero, [first, zero], values, options=options)
    # A vector of zeros stands at a right angle to all others.
    torch.testing.assert_close(with_zeros, first * torch.sin(torch.tensor(0.75 * torch.pi / 2)))


def test_another_number_of_models_is_refused() -> None:
    base, *inputs = random_models(0, 3, torch.float32)
    with pytest.raises(MethodError, match=r"nuslerp merges exactly 2 model.*got 3"):
        merged("nuslerp", base, inputs, {})
