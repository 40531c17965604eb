from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from evomerge.merging.method import MethodError
from tests.contracts.merge_method import MergeMethodContract, fixed, make_engine, make_merge, merged, random_models

A = torch.tensor([[1.0, 2, 0], [0, 1, 1]])
B = torch.tensor([[0.0, 1, -1], [2, 0, 1]])


class TestIsoCts(MergeMethodContract):
    name = "iso_cts"
    values = fixed({"weight": [1.0, 0.7, 1.2], "common_fraction": 0.6, "scale": 0.8})
    one_hot = None  # one input's singular values are made equal too
    rotates = True


def delta(inputs: list[Tensor], values: dict[str, Any], **given: Any) -> Tensor:
    return merged("iso_cts", torch.zeros_like(inputs[0]), inputs, values, **given)


def reference(inputs: list[Tensor], fraction: float) -> Tensor:
    """As the paper has it, with full decompositions by numpy."""
    deltas = [x.double().numpy() for x in inputs]
    n_inputs, full = len(deltas), min(deltas[0].shape)
    left, values, right = np.linalg.svd(sum(deltas), full_matrices=False)
    specific = round((full - int(full * fraction)) / n_inputs) * n_inputs
    common = full - specific
    blocks = []
    for one in deltas:
        rest = np.linalg.svd(one - left[:, :common] @ (left[:, :common].T @ one), full_matrices=False)
        blocks.append(
            [
                part[..., : specific // n_inputs] if i < 2 else part[: specific // n_inputs]
                for i, part in enumerate(rest)
            ]
        )
    blocks.append([left[:, :common], values[:common], right[:common]])
    u, s, v = (np.concatenate([b[i] for b in blocks], axis) for i, axis in enumerate((1, 0, 0)))
    (pu, _, qu), (pv, _, qv) = (np.linalg.svd(x, full_matrices=False) for x in (u, v))
    return torch.from_numpy(s.mean() * (pu @ qu) @ (pv @ qv)).float()


@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.8, 1.0])
@pytest.mark.parametrize("shape", [(15, 23), (23, 15), (16, 16)])
def test_against_full_decompositions(shape: tuple[int, int], fraction: float) -> None:
    base, *inputs = random_models(1, 3, torch.float32, shape)
    deltas = [x - base for x in inputs]
    result = delta(deltas, {"common_fraction": fraction})
    torch.testing.assert_close(result, reference(deltas, fraction), rtol=1e-4, atol=1e-6)


def test_worked_examples() -> None:
    diagonal = [torch.diag(torch.tensor(v)) for v in ([3, 1, 0.2], [1, 0.2, 2])]
    expected = 2.333333 * torch.eye(3)
    torch.testing.assert_close(delta(diagonal, {"common_fraction": 0.34}), expected, rtol=0, atol=2e-6)
    wanted = torch.tensor([[-0.151564, 2.359901, -0.232161], [1.994053, 0.252735, 1.267234]])
    torch.testing.assert_close(delta([A, B], {"common_fraction": 0.0}), wanted, rtol=0, atol=2e-6)


def test_common_fraction_one_equals_iso_c() -> None:
    base, *inputs = random_models(2, 3, torch.float32)
    values = {"weight": [1.0, 0.5, 2.0], "scale": 0.7}
    result = merged("iso_cts", base, inputs, {**values, "common_fraction": 1.0})
    torch.testing.assert_close(result, merged("iso_c", base, inputs, values), rtol=1e-6, atol=1e-7)


def test_rounding_up_stays_within_the_rank() -> None:
    """Rank 3, two tasks, fraction 0: 1.5 rounds to 2 each, which is 4 of 3; one each, and one common, it is."""
    inputs = [torch.diag(torch.tensor([3.0, 1, 0.2])), torch.diag(torch.tensor([1.0, 0.2, 2]))]
    result = delta(inputs, {"common_fraction": 0.0})
    # Common: the sum's 4 in the first direction. Tasks: 1 in the second, 2 in the third.
    torch.testing.assert_close(result, 7 / 3 * torch.eye(3), rtol=0, atol=2e-6)


def test_identical_low_rank_experts_add_no_arbitrary_directions() -> None:
    low = torch.outer(torch.arange(1.0, 7), torch.tensor([1.0, -1, 2, 0, 3, 1]))
    result = delta([low, low], {"common_fraction": 0.5})
    torch.testing.assert_close(result, 2 * low, rtol=1e-5, atol=1e-5)
    official = delta([low, low], {"common_fraction": 0.5}, options={"compat": "official"})
    torch.testing.assert_close(official, 2 * low / 6, rtol=1e-5, atol=1e-5)


def test_deltas_that_cancel() -> None:
    assert delta([A, -A], {"common_fraction": 1.0}).abs().max() == 0
    assert torch.isfinite(delta([A, -A], {"common_fraction": 0.0})).all()


def test_a_fraction_that_is_none_is_refused() -> None:
    with pytest.raises(MethodError, match=r"common_fraction must lie between 0 and 1; it is 1\.5"):
        delta([A, B], {"common_fraction": 1.5})


def test_a_new_scale_reuses_decompositions(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, into = make_engine({"x": torch.zeros(2, 3)}, [{"x": A}, {"x": B}]), {"x": torch.zeros(2, 3)}
    engine.apply(make_merge("iso_cts", 2, {"scale": 1.0}), into)
    first = into["x"].clone()
    monkeypatch.setattr(torch.linalg, "eigh", None)
    engine.apply(make_merge("iso_cts", 2, {"scale": 2.0}), into)
    torch.testing.assert_close(into["x"], 2 * first)
    for values in ({"weight": [1.0, 2.0]}, {"common_fraction": 0.1}):
        with pytest.raises(TypeError):
            engine.apply(make_merge("iso_cts", 2, values), into)
