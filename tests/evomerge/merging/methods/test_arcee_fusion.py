import numpy as np
import pytest
import torch
from torch import Tensor

from evomerge.merging import tiles
from tests.contracts.merge_method import MergeMethodContract, fixed, merged, random_models


class TestArceeFusion(MergeMethodContract):
    name = "arcee_fusion"
    n_inputs = 1
    values = fixed({"multiplier": 1.0})
    one_hot = fixed({"multiplier": -1e30})
    permutes = False  # there is one input
    scales = False  # weights are taken as logits
    translates = False  # likewise, and X differs from element to element
    hull = True


def test_worked_example() -> None:
    base = torch.tensor([[0.0, 1, 2, 3], [1, 1, 1, 1]])
    other = torch.tensor([[0.5, 1, 2, 2], [1, 1.1, 1, 1]])
    assert merged("arcee_fusion", base, [other], {}).tolist() == [[0.5, 1, 2, 2], [1, 1, 1, 1]]


def reference(base: Tensor, other: Tensor, multiplier: float) -> tuple[np.ndarray, np.ndarray]:
    """The mask, and how far each element is from the threshold in relation to it: whole tensors in float64."""
    a, b = base.double().numpy(), other.double().numpy()

    def softmax(x: np.ndarray) -> np.ndarray:
        e = np.exp(x - x.max(-1, keepdims=True))
        return e / e.sum(-1, keepdims=True) + 1e-8

    p, q = softmax(b), softmax(a)
    importance = np.abs(b - a) * (p * np.log(p / q)).sum(-1, keepdims=True)
    ordered = np.sort(importance, axis=None)
    first, median, third = (ordered[int(share * (ordered.size - 1))] for share in (0.25, 0.5, 0.75))
    threshold = median + multiplier * (third - first)
    return importance >= threshold, importance / threshold - 1


@pytest.mark.parametrize("shape", [(50, 30), (3, tiles.TILE // 2), (7001,), (4, 3, 17)])
@pytest.mark.parametrize("multiplier", [0.0, 1.5])
def test_against_whole_tensors_in_float64(shape: tuple[int, ...], multiplier: float) -> None:
    base, other = random_models(3, 1, torch.bfloat16, shape)
    result = merged("arcee_fusion", base, [other], {"multiplier": multiplier})
    mask, margin = reference(base, other, multiplier)
    expected = torch.where(torch.from_numpy(mask), other, base)
    assert 0.01 < mask.mean() < 0.6
    different = (result != expected).numpy()
    # Only what lies on the threshold, to the precision of float32, may go the other way.
    assert bool((np.abs(margin[different]) < 1e-6).all())


def test_every_element_comes_from_one_of_the_two() -> None:
    base, other = random_models(1, 1, torch.float32, (40, 50))
    result = merged("arcee_fusion", base, [other], {})
    assert bool(((result == base) | (result == other)).all())


def test_rows_of_equal_softmax_are_taken_whole() -> None:
    # A constant added to a row does not change its softmax.
    assert torch.equal(merged("arcee_fusion", torch.zeros(4, 8), [torch.ones(4, 8)], {}), torch.ones(4, 8))
