import pytest
import torch

from tests.contracts.merge_method import MergeMethodContract, fixed, merged, random_models
from tests.evomerge.merging.methods.test_ram import A, B, C
from tests.evomerge.merging.vectors import check

INPUTS = [torch.tensor(row) for row in (A, B, C)]


class TestRamPlus(MergeMethodContract):
    name = "ram_plus"
    values = fixed({"weight": [0.3, 0.9, 0.5], "scale": 0.8, "epsilon": 0.03, "r": 0.5, "alpha": 0.9})
    one_hot = fixed({"epsilon": 0.0})
    scales = False  # epsilon is in units of the weights
    # Amplification is in units of the tensor: other tensors play no part, see local.


@pytest.mark.slow
class TestRamPlusWithoutEpsilon(MergeMethodContract):
    name = "ram_plus"
    values = fixed({"weight": [0.3, 0.9, 0.5], "epsilon": 0.0, "scale": 1.0})
    one_hot = fixed({"epsilon": 0.0})
    averages = True


def test_worked_example() -> None:
    check(merged("ram_plus", torch.zeros(6), INPUTS, {}), [0, 0.375, 2, 2.04, 0, -1.02])


def test_alpha_bounds_the_amplification_and_r_scales_it() -> None:
    # One shared and one unique element each: rho is 1.
    check(merged("ram_plus", torch.zeros(6), INPUTS, {"alpha": 3, "r": 0.5}), [0, 0.375, 2, 3, 0, -1.5])
    assert torch.equal(merged("ram_plus", torch.zeros(6), INPUTS, {"r": 0}), merged("ram", torch.zeros(6), INPUTS, {}))


def test_inputs_of_weight_zero_are_not_counted() -> None:
    # Without A, everything that B and C change is theirs alone.
    check(merged("ram_plus", torch.zeros(6), INPUTS, {"weight": [0, 1, 1]}), [0, 0.25, 3, 2, 0, -1])
    inputs = [torch.tensor(row) for row in ([1.0, 0, 0], [1.0, 1, 0], [0.0, 1, 1])]
    check(merged("ram_plus", torch.zeros(3), inputs, {"weight": [0, 1, 1]}), [1.02, 1, 1.02])


def test_counts_span_all_tiles() -> None:
    base, *inputs = random_models(0, 2, torch.float32, (600_000,))
    values = {"epsilon": 0.05, "r": 1.0, "alpha": 10.0}
    result = merged("ram_plus", base, inputs, values).double() - base.double()
    deltas = torch.stack([(model - base).double() for model in inputs])
    changed = deltas.abs() > 0.05
    alone = changed.sum(0) == 1
    rho = ((changed & ~alone).sum(1) / (changed & alone).sum(1)).tolist()
    expected = (deltas * changed).sum(0) / changed.sum(0).clamp(min=1)
    for index in range(2):
        expected[changed[index] & alone] *= 1 + rho[index]
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-6)
