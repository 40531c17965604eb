import numpy as np
import pytest
import torch
from torch import Tensor

from evomerge.merging.kernels import spectral
from tests.contracts.merge_method import MergeMethodContract, fixed, make_engine, make_merge, merged, random_models

A = torch.tensor([[1.0, 2, 0], [0, 1, 1]])
B = torch.tensor([[0.0, 1, -1], [2, 0, 1]])


class TestTsvM(MergeMethodContract):
    name = "tsv_m"
    values = fixed({"weight": [1.0, 0.7, 1.2], "scale": 0.8})
    one_hot = None  # only a share of the rank of each input is kept
    rotates = True


def delta(inputs: list[Tensor], **values: object) -> Tensor:
    return merged("tsv_m", torch.zeros_like(inputs[0]), inputs, values)  # type: ignore[arg-type]


def close(result: Tensor, expected: object) -> None:
    torch.testing.assert_close(result, torch.as_tensor(expected, dtype=torch.float32), rtol=0, atol=2e-6)


def reference(inputs: list[Tensor]) -> Tensor:
    share = min(inputs[0].shape) // len(inputs)
    found = [np.linalg.svd(x.double().numpy(), full_matrices=False) for x in inputs]
    left = np.concatenate([u[:, :share] for u, _, _ in found], 1)
    right = np.concatenate([v[:share] for _, _, v in found])
    (pu, _, qu), (pv, _, qv) = (np.linalg.svd(x, full_matrices=False) for x in (left, right))
    values = np.concatenate([s[:share] for _, s, _ in found])
    return torch.from_numpy((pu @ qu) * values @ (pv @ qv)).float()


@pytest.mark.parametrize("shape", [(14, 23), (23, 14), (12, 12)])
@pytest.mark.parametrize("n_inputs", [2, 3, 5])
def test_against_full_decompositions(shape: tuple[int, int], n_inputs: int) -> None:
    base, *inputs = random_models(1, n_inputs, torch.float32, shape)
    deltas = [x - base for x in inputs]
    torch.testing.assert_close(delta(deltas), reference(deltas), rtol=1e-4, atol=1e-6)


def test_worked_examples() -> None:
    close(delta([torch.diag(torch.tensor([2.0, 0])), torch.diag(torch.tensor([0.0, 1]))]), [[2, 0], [0, 1]])
    close(delta([A, B]), [[-0.112657, 2.41819, -0.210482], [1.946116, 0.297135, 1.233888]])
    close(delta([torch.diag(torch.tensor([2.0, 0.5])), torch.ones(2, 2)]), 2 * torch.eye(2))
    close(delta([torch.tensor([1.0, 2]), torch.tensor([3.0, 0])]), [2, 1])


def test_a_single_expert_is_returned() -> None:
    base, expert = random_models(3, 1, torch.float32)
    torch.testing.assert_close(merged("tsv_m", base, [expert], {}), expert, rtol=1e-6, atol=1e-7)


def test_experts_that_are_all_the_same_share_one_set_of_directions() -> None:
    """Their vectors together have no unique orthogonal factor: each has its share, and the sum is one of them."""
    base, expert = random_models(3, 1, torch.float32, (9, 12))
    left, values, right = torch.linalg.svd((expert - base).double(), full_matrices=False)
    wanted = (left[:, :3] * values[:3] @ right[:3]).float()
    torch.testing.assert_close(delta([expert - base] * 3), wanted, rtol=1e-4, atol=1e-6)


def test_more_inputs_than_ranks_keep_one_triplet_each() -> None:
    row = torch.tensor([[3.0, 4.0]])
    close(delta([row, 2 * row, 0 * row]), row * (1 + 2) / 2)


def test_new_weights_reuse_decompositions(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, into = make_engine({"x": torch.zeros(2, 3)}, [{"x": A}, {"x": B}]), {"x": torch.zeros(2, 3)}
    engine.apply(make_merge("tsv_m", 2, {}), into)
    monkeypatch.setattr(torch.linalg, "eigh", None)
    engine.apply(make_merge("tsv_m", 2, {"weight": [0.5, -2.0]}), into)
    again = into["x"].clone()
    monkeypatch.undo()
    torch.testing.assert_close(again, delta([A, B], weight=[0.5, -2.0]), rtol=1e-6, atol=1e-7)


def test_parts_are_kept_in_the_smaller_form() -> None:
    left, right = torch.randn(10, 2, dtype=torch.float64), torch.randn(2, 10, dtype=torch.float64)
    assert [tuple(x.shape) for x in spectral.compact(left, right)] == [(10, 2), (2, 10)]
    assert [tuple(x.shape) for x in spectral.compact(left[:3], right)] == [(3, 2), (2, 10)]
    assert [tuple(x.shape) for x in spectral.compact(left[:2], right)] == [(2, 10)]
    for rows in (2, 10):
        total = spectral.accumulate(torch.ones(rows, 10), spectral.compact(left[:rows], right), 0.5)
        torch.testing.assert_close(total, (1 + 0.5 * left[:rows] @ right).float())
