from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from evomerge.merging.kernels import spectral
from tests.contracts.merge_method import MergeMethodContract, fixed, make_engine, make_merge, merged, random_models

A = torch.tensor([[1.0, 2, 0], [0, 1, 1]])
B = torch.tensor([[0.0, 1, -1], [2, 0, 1]])
TWO_ONES = [torch.diag(torch.tensor([2.0, 0.5])), torch.ones(2, 2)]


class TestIsoC(MergeMethodContract):
    name = "iso_c"
    values = fixed({"weight": [1.0, 0.7, 1.2], "scale": 0.8})
    one_hot = None  # one input's singular values are made equal too
    rotates = True


@pytest.mark.slow
class TestIsoCOfVectors(MergeMethodContract):
    name = "iso_c"
    values = fixed({"scale": 1.5})
    options = fixed({"exclude": "x"})
    one_hot = None  # the mean of one delta and zeros
    rotates = True


def delta(inputs: list[Tensor], values: dict[str, Any] | None = None, **given: Any) -> Tensor:
    base = torch.ones_like(inputs[0])
    return merged("iso_c", base, [base + x for x in inputs], values or {}, **given) - base


def close(result: Tensor, expected: Any) -> None:
    torch.testing.assert_close(result, torch.as_tensor(expected, dtype=torch.float32), rtol=0, atol=2e-6)


def test_worked_examples() -> None:
    close(delta([torch.diag(torch.tensor([2.0, 0])), torch.diag(torch.tensor([0.0, 1]))]), 1.5 * torch.eye(2))
    close(delta([torch.tensor([1.0, 2]), torch.tensor([3.0, 0])]), [2, 1])
    close(delta([A, B]), [[0.658114, 2.764911, -1.29057], [2.001388, 0.605409, 2.317616]])
    close(delta(TWO_ONES), 2.25 * torch.eye(2))
    np.testing.assert_allclose(spectral.spectrum(A + B).values, [3.627985, 2.614904], rtol=0, atol=1e-6)


def polar_by_svd(matrix: Any) -> Tensor:
    left, _, right = np.linalg.svd(matrix.double().numpy(), full_matrices=False)
    return torch.from_numpy(left @ right)


def test_all_singular_values_are_equal_and_their_sum_is_kept() -> None:
    base, *inputs = random_models(4, 3, torch.float32, (30, 20))
    result = merged("iso_c", torch.zeros_like(base), [x - base for x in inputs], {"weight": [0.5, 1, 2]})
    found = torch.linalg.svdvals(result.double())
    summed = sum(w * (x - base).double() for w, x in zip((0.5, 1, 2), inputs, strict=True))
    wanted = torch.linalg.svdvals(summed).mean()
    torch.testing.assert_close(found, wanted.expand(20), rtol=1e-6, atol=0)
    torch.testing.assert_close(result.double(), polar_by_svd(summed) * wanted, rtol=1e-5, atol=1e-7)


def test_a_sum_of_low_rank_stays_in_its_own_directions() -> None:
    """Null directions of the sum are arbitrary: nothing is put there."""
    low = torch.outer(torch.arange(1.0, 7), torch.tensor([1.0, -1, 2, 0]))
    low[0, 3] += 1.0
    values = torch.linalg.svdvals(low.double())
    assert (values > 1e-6).sum() == 2
    for compat, count in (("guarded", 2), ("official", 4)):
        result = delta([low / 2, low / 2], options={"compat": compat})
        expected = torch.tensor([values.sum() / count] * 2 + [0, 0])
        torch.testing.assert_close(torch.linalg.svdvals(result.double()), expected, rtol=0, atol=1e-5)


def test_deltas_that_cancel_leave_the_base() -> None:
    assert torch.equal(delta([A, -A]), torch.zeros_like(A))


def test_excluded_tensors_get_the_mean() -> None:
    base = {"text_projection.weight": torch.zeros(2, 3), "embed.weight": torch.zeros(2, 3)}
    models = [{name: x.clone() for name in base} for x in (A, B)]
    merge = make_merge("iso_c", 2, {"weight": [1.0, 2.0], "scale": 3.0})
    found = dict(make_engine(base, models).stream(merge))
    close(found["text_projection.weight"], 1.5 * A + 3 * B)
    assert not torch.allclose(found["embed.weight"], found["text_projection.weight"])
    without = make_merge("iso_c", 2, {"scale": 3.0}, options={"exclude": "*text*, embed.*"})
    assert torch.equal(*dict(make_engine(base, models).stream(without)).values())


def test_a_new_scale_reuses_decompositions(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, into = make_engine({"x": torch.zeros(2, 3)}, [{"x": A}, {"x": B}]), {"x": torch.zeros(2, 3)}
    engine.apply(make_merge("iso_c", 2, {"scale": 1.0}), into)
    first = into["x"].clone()
    monkeypatch.setattr(torch.linalg, "eigh", None)
    engine.apply(make_merge("iso_c", 2, {"scale": 2.0}), into)
    torch.testing.assert_close(into["x"], 2 * first)
    with pytest.raises(TypeError):
        engine.apply(make_merge("iso_c", 2, {"weight": [1.0, 2.0]}), into)


@pytest.mark.parametrize("shape", [(40, 25), (25, 40), (30, 30)])
def test_spectra_of_bad_condition(shape: tuple[int, int]) -> None:
    random = np.random.default_rng(0)
    left, _ = np.linalg.qr(random.normal(size=(shape[0], 25)))
    right, _ = np.linalg.qr(random.normal(size=(shape[1], 25)))
    values = np.logspace(0, -4, 25)
    matrix = torch.from_numpy(left * values @ right.T)
    found = spectral.spectrum(matrix)
    np.testing.assert_allclose(found.values, values, rtol=1e-9)
    np.testing.assert_allclose(found.left @ found.right, left @ right.T, atol=1e-7)
    assert len(spectral.spectrum(matrix, 7).values) == 7
    assert len(spectral.spectrum(matrix, above=0.04).values) == 9
