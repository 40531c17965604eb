import itertools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from evomerge.merging.models.checkpoint import Checkpoint
from evomerge.prepare.alignment.rebasin import Matching, match, reorder
from evomerge.prepare.alignment.symmetries import Place, find_units
from tests.contracts.merge_method import Tensors
from tests.evomerge.prepare.alignment.test_symmetries import MODELS, random_model, shuffled, units_of


def mlp(seed: int, widths: tuple[int, ...] = (3, 7, 6, 5, 2), dtype: torch.dtype = torch.float32) -> Tensors:
    random = torch.Generator().manual_seed(seed)
    made = Tensors()
    for index, (ins, outs) in enumerate(itertools.pairwise(widths)):
        made[f"{index}.weight"] = torch.randn(outs, ins, generator=random).to(dtype)
        made[f"{index}.bias"] = torch.randn(outs, generator=random).to(dtype)
    return made


def forward(model: Mapping[str, Tensor], x: Tensor) -> Tensor:
    for index in range(len(model) // 2):
        x = torch.nn.functional.linear(x, model[f"{index}.weight"], model[f"{index}.bias"])
        x = torch.relu(x) if index < len(model) // 2 - 1 else x
    return x


def matched(model: Tensors, to: Tensors, **given: int) -> tuple[Tensors, Matching]:
    units = find_units({name: tuple(tensor.shape) for name, tensor in model.items()}, None)
    found = match(model, to, units, **given)
    return Tensors({**model, **found.tensors}), found


def test_worked_example() -> None:
    first, second = torch.tensor([[1.0, 0], [0, 2], [3, 1]]), torch.tensor([[1.0, -1, 2]])
    model = Tensors({"0.weight": first[[2, 0, 1]], "1.weight": second[:, [2, 0, 1]]})
    aligned, found = matched(model, Tensors({"0.weight": first, "1.weight": second}))
    assert torch.equal(aligned["0.weight"], first)
    assert torch.equal(aligned["1.weight"], second)
    # Before: the diagonal of [[5, 2, -1], [0, -1, 5], [14, 5, 0]], then its best assignment, twice.
    assert found.agreement == (4.0, 21.0, 21.0)
    assert found.cosine == pytest.approx((4 / 21, 1.0))
    assert found.moved == 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_shuffled_network_comes_back_bit_for_bit(dtype: torch.dtype) -> None:
    original = mlp(0, dtype=dtype)
    units = find_units({name: tuple(tensor.shape) for name, tensor in original.items()}, None)
    model = Tensors({name: tensor.clone() for name, tensor in original.items()})
    random = np.random.default_rng(1)
    for one in units:
        order = random.permutation(one.count).tolist()
        for place in one.places:
            reorder(model[place.tensor], place, order)
    before = {name: tensor.clone() for name, tensor in model.items()}
    aligned, found = matched(model, original)
    for name, tensor in original.items():
        assert torch.equal(aligned[name], tensor), name
        assert torch.equal(model[name], before[name]), "the model itself is only read"
    assert found.cosine[1] == pytest.approx(1.0)


def test_outputs_stay_and_agreement_never_falls() -> None:
    model, to = mlp(0, (4, 30, 40, 20, 3)), mlp(1, (4, 30, 40, 20, 3))
    aligned, found = matched(model, to)
    x = torch.randn(16, 4, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(forward(aligned, x), forward(model, x), rtol=1e-4, atol=1e-4)
    assert len(found.agreement) > 3
    assert all(a <= b for a, b in zip(found.agreement, found.agreement[1:], strict=False))
    assert found.agreement[-1] == found.agreement[-2], "it ended because nothing gained"
    inner = sum(float((aligned[name].double() * to[name].double()).sum()) for name in found.tensors)
    assert found.agreement[-1] == pytest.approx(inner)
    apart = [sum(float((m[n] - to[n]).square().sum()) for n in to) for m in (model, aligned)]
    assert apart[1] < apart[0]


def test_matching_is_optimal_for_each_kind_of_units() -> None:
    model, to = mlp(3), mlp(4)
    aligned, _ = matched(model, to)
    for index in range(3):
        inner = torch.cat([aligned[f"{index}.weight"], aligned[f"{index}.bias"][:, None]], 1).double()
        wanted = torch.cat([to[f"{index}.weight"], to[f"{index}.bias"][:, None]], 1).double()
        scores = wanted @ inner.T + to[f"{index + 1}.weight"].double().T @ aligned[f"{index + 1}.weight"].double()
        rows, columns = linear_sum_assignment(scores.numpy(), maximize=True)
        assert rows.tolist() == columns.tolist()


def test_the_seed_decides_the_order_and_nothing_else_does() -> None:
    # Large enough for torch to divide the products among its threads.
    model, to = (mlp(seed, (60, 400, 500, 200, 30)) for seed in (0, 1))
    results = []
    for seed, threads in ((0, 1), (0, 2), (1, 1)):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            results.append(matched(model, to, seed=seed, sweeps=4)[1])
        finally:
            torch.set_num_threads(before)
    assert results[0].agreement == results[1].agreement
    assert all(torch.equal(tensor, results[1].tensors[name]) for name, tensor in results[0].tensors.items())
    assert results[0].agreement != results[2].agreement


def test_models_that_agree_are_left_alone() -> None:
    model = mlp(0)
    aligned, found = matched(model, model)
    assert found.moved == 0
    assert len(found.agreement) == 2
    assert all(torch.equal(aligned[name], tensor) for name, tensor in model.items())
    zeros = Tensors({name: torch.zeros_like(tensor) for name, tensor in model.items()})
    assert matched(zeros, model)[1].cosine == (0.0, 0.0)


def test_sweeps_are_limited() -> None:
    model, to = mlp(0, (4, 30, 40, 20, 3)), mlp(1, (4, 30, 40, 20, 3))
    assert len(matched(model, to, sweeps=1)[1].agreement) == 2
    assert matched(model, to, sweeps=0)[1].moved == 0


def test_blocks_move_as_a_whole_within_their_part() -> None:
    tensor = torch.arange(20.0).view(2, 10)
    reorder(tensor, Place("x", 1, start=2, block=2), [2, 0, 1])
    assert tensor[0].tolist() == [0, 1, 6, 7, 2, 3, 4, 5, 8, 9]
    assert tensor[1].tolist() == [10, 11, 16, 17, 12, 13, 14, 15, 18, 19]


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("name", ["llama", "gpt2", "fused", "a norm for all heads"])
def test_a_shuffled_decoder_comes_back(tmp_path: Path, name: str, residual: bool) -> None:
    """Small and random: its units differ so much that matching one kind after the other finds all of them."""
    original = Checkpoint.open(random_model(*MODELS[name][:2], tmp_path / "original"))
    units = units_of(original, residual=residual)
    # Where everything is in disorder at once, nothing shows where to begin: the residual stream is moved alone.
    model = Checkpoint.open(shuffled(original, units[-1:] if residual else units, tmp_path / "shuffled"))
    found = match(model, original, units)
    assert found.moved > 0
    for tensor in original.names:
        aligned = found.tensors.get(tensor, model.tensor(tensor))
        assert torch.equal(aligned, original.tensor(tensor)), tensor
