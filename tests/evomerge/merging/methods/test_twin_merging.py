from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from evomerge.merging.method import MethodError
from tests.contracts.merge_method import MergeMethodContract, fixed, make_engine, make_merge, merged, random_models


class TestTwinMerging(MergeMethodContract):
    name = "twin_merging"
    values = fixed({"weight": [1.0, 0.7, 1.2], "density": 0.4, "scale": 0.3})
    one_hot = fixed({"density": 1.0})
    linear = False  # dividing by the sum of the weights
    rotates = True


@pytest.mark.slow
class TestTwinMergingAsItIs(MergeMethodContract):
    name = "twin_merging"
    options = fixed({"normalize": False})
    values = fixed({"weight": [0.2, 0.7, 0.5], "density": 0.5, "scale": 0.3})
    one_hot = fixed({"density": 1.0})
    rotates = True


@pytest.mark.slow
class TestTwinMergingWhole(MergeMethodContract):
    name = "twin_merging"
    options = fixed({"exclude": "*"})
    values = fixed({"weight": [0.2, 0.7, 0.5]})
    one_hot = fixed({"density": 1.0})
    linear = False  # as above
    averages = True


def twin(inputs: list[Tensor], values: dict[str, Any], **options: Any) -> Tensor:
    return merged("twin_merging", torch.zeros_like(inputs[0]), inputs, values, options=options)


@pytest.mark.parametrize("shape", [(10, 23), (23, 10)])
@pytest.mark.parametrize("density", [0.0, 0.09, 0.3, 1.0])
def test_against_full_decompositions(shape: tuple[int, int], density: float) -> None:
    base, *inputs = random_models(1, 3, torch.float32, shape)
    deltas = [x - base for x in inputs]
    weights = (0.5, 0.3, 0.2)
    shared = 0.4 * sum(x.double().numpy() for x in deltas)
    wanted = shared.copy()
    for weight, x in zip(weights, deltas, strict=True):
        left, values, right = np.linalg.svd(x.double().numpy() - shared, full_matrices=False)
        rank = {0.0: 0, 0.09: 1, 0.3: 3, 1.0: 10}[density]
        wanted += weight * (left[:, :rank] * values[:rank] @ right[:rank])
    result = twin(deltas, {"weight": weights, "density": density, "scale": 0.4})
    torch.testing.assert_close(result, torch.from_numpy(wanted).float(), rtol=1e-5, atol=1e-6)


def test_worked_example() -> None:
    """Shared diag(1.5, 1); exclusive diag(1.5, -1) and diag(-1.5, 1), cut to their larger entry."""
    inputs = [torch.diag(torch.tensor([3.0, 0])), torch.diag(torch.tensor([0.0, 2]))]
    values = {"weight": [3, 1], "density": 0.5, "scale": 0.5}
    torch.testing.assert_close(twin(inputs, values), torch.diag(torch.tensor([1.5 + 0.75 * 1.5 - 0.25 * 1.5, 1])))


def test_one_weight_alone_gives_that_input_only_at_full_rank() -> None:
    inputs = [torch.diag(torch.tensor([3.0, 0])), torch.diag(torch.tensor([0.0, 2]))]
    assert torch.equal(twin(inputs, {"weight": [2, 0], "density": 1.0}), inputs[0])
    half = twin(inputs, {"weight": [2, 0], "density": 0.5, "scale": 0.5})
    torch.testing.assert_close(half, torch.diag(torch.tensor([3.0, 1])))


def test_vectors_keep_the_whole_exclusive_part() -> None:
    inputs = [torch.tensor([3.0, 0]), torch.tensor([0.0, 2])]
    values = {"weight": [0.5, 0.25], "density": 0.1, "scale": 0.5}
    wanted = torch.tensor([1.5, 1]) + 0.5 * torch.tensor([1.5, -1]) + 0.25 * torch.tensor([-1.5, 1])
    torch.testing.assert_close(twin(inputs, values, normalize=False), wanted)


def test_new_weights_reuse_decompositions(monkeypatch: pytest.MonkeyPatch) -> None:
    base, *inputs = random_models(1, 2, torch.float32)
    engine, into = make_engine({"x": base}, [{"x": x} for x in inputs]), {"x": base.clone()}
    engine.apply(make_merge("twin_merging", 2, {"density": 0.5}), into)
    monkeypatch.setattr(torch.linalg, "eigh", None)
    engine.apply(make_merge("twin_merging", 2, {"density": 0.5, "weight": [0.9, 0.1]}), into)
    again = into["x"].clone()
    with pytest.raises(TypeError):
        engine.apply(make_merge("twin_merging", 2, {"density": 0.5, "scale": 0.5}), into)
    monkeypatch.undo()
    assert torch.equal(again, merged("twin_merging", base, inputs, {"density": 0.5, "weight": [0.9, 0.1]}))


def test_a_density_that_is_no_share_is_refused() -> None:
    with pytest.raises(MethodError, match=r"density must lie between 0 and 1; it is 2\.0"):
        twin([torch.ones(2, 2)], {"density": 2.0})
