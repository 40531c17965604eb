import numpy as np
import pytest
import torch

from evomerge.merging.method import MethodError
from tests.contracts.merge_method import MergeMethodContract, fixed, merged, random_models
from tests.evomerge.merging.vectors import check

A, B = torch.tensor([3.0, 0, 4]), torch.tensor([0.0, 10, 0])
ZERO = torch.zeros(3)


class TestFlagMean(MergeMethodContract):
    name = "flag_mean"
    values = fixed({"weight": [0.2, 0.5, 0.4]})
    averages = True
    rotates = True


def test_against_a_singular_value_decomposition() -> None:
    base, *models = random_models(4, 3, torch.float32, (30, 20))
    shared = models[0] - base
    inputs = [base + 0.7 * shared + (model - base) for model in models]
    weights = np.array([0.5, 0.3, 0.2])
    result = merged("flag_mean", base, inputs, {"weight": weights.tolist()}).double() - base.double()
    deltas = np.array([(x - base).double().flatten().numpy() for x in inputs]).T
    lengths = np.linalg.norm(deltas, axis=0)
    left, _, _ = np.linalg.svd(deltas / lengths * weights, full_matrices=False)
    expected = left[:, 0] * np.sign(left[:, 0] @ deltas.sum(axis=1)) * (weights @ lengths)
    np.testing.assert_allclose(result.flatten(), expected, rtol=1e-4, atol=2e-6)


def test_a_delta_at_right_angles_to_the_others_has_no_part() -> None:
    result = merged("flag_mean", ZERO, [A, A * 2, B], {})
    check(result, (A / 5 * (5 + 10 + 10) / 3).tolist())


def test_right_angles_and_equal_weights_give_the_sum_of_directions() -> None:
    check(merged("flag_mean", ZERO, [A, B], {}), ((A / 5 + B / 10) / 2**0.5 * 7.5).tolist())


@pytest.mark.parametrize("models", [(A, -A), (A, -A / 2)])
def test_deltas_that_cancel_are_added_up(models: tuple[torch.Tensor, ...]) -> None:
    check(merged("flag_mean", ZERO, models, {}), (sum(models, start=ZERO) / 2).tolist())


def test_weights_that_cannot_be_normalized_are_refused() -> None:
    with pytest.raises(MethodError, match="add up to 0"):
        merged("flag_mean", ZERO, [A, B], {"weight": [1.0, -1.0]})
