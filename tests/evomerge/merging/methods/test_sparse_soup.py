import pytest
import torch
from torch import Tensor

from evomerge.merging.method import MethodError
from tests.contracts.merge_method import MergeMethodContract, fixed, merged, random_models
from tests.evomerge.merging.vectors import check

A = torch.tensor([1.0, 0, 3, 0, 5, 6])
B = torch.tensor([2.0, 0, 0, 4, 1, 2])


class TestSparseSoup(MergeMethodContract):
    name = "sparse_soup"
    values = fixed({"weight": [0.2, 0.5, 0.4]})
    averages = True
    translates = False  # zeros are special
    hull = True


@pytest.mark.slow
class TestIntersection(MergeMethodContract):
    name = "sparse_soup"
    options = fixed({"masks": "intersect"})
    values = fixed({"weight": [0.2, 0.5, 0.4]})
    averages = True
    translates = False  # zeros are special
    hull = True  # for models without zeros


def pruned(n_inputs: int, shape: tuple[int, ...] = (40, 1001)) -> tuple[Tensor, list[Tensor], Tensor]:
    """Base, models of one mask, and the mask."""
    base, *inputs = random_models(5, n_inputs, torch.bfloat16, shape)
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(1)) < 0.4
    return base, [model * mask for model in inputs], mask


def test_zeros_stay_exactly_and_the_rest_is_the_soup() -> None:
    base, inputs, mask = pruned(3)
    values = {"weight": [0.2, 0.5, 0.4]}
    result = merged("sparse_soup", base, inputs, values)
    assert bool((result[~mask] == 0).all())
    assert torch.equal(result, merged("linear", base, inputs, values))
    assert int((result != 0).sum()) <= int(mask.sum())


def test_models_pruned_otherwise_are_refused_and_how_many_elements_differ_is_said() -> None:
    with pytest.raises(
        MethodError, match=r"x: 'math' and 'code' have different pruning masks: 2 of 6 .* intersect .* union"
    ):
        merged("sparse_soup", torch.ones(6), [A, B], {})


def test_intersect_and_union() -> None:
    one = merged("sparse_soup", torch.ones(6), [A, B], {}, options={"masks": "intersect"})
    check(one, [1.5, 0, 0, 0, 3, 4])
    check(merged("sparse_soup", torch.ones(6), [A, B], {}, options={"masks": "union"}), [1.5, 0, 1.5, 2, 3, 4])


def test_a_weight_of_zero_takes_no_part() -> None:
    base, inputs, _ = pruned(2)
    dense = base + 1
    values = {"weight": [0.5, 0.5, 0]}
    expected = merged("sparse_soup", base, inputs, {"weight": [0.5, 0.5]})
    for masks in ("equal", "intersect"):
        result = merged("sparse_soup", base, [*inputs, dense], values, options={"masks": masks})
        assert torch.equal(result, expected)
    everything = merged("sparse_soup", base, [*inputs, torch.zeros_like(base)], {"weight": [1, 1, 0]})
    assert torch.equal(everything, expected)


def test_weights_of_zero_are_refused() -> None:
    with pytest.raises(MethodError, match=r"x: the weights \[0.0, 0.0\] add up to 0"):
        merged("sparse_soup", torch.ones(6), [A, A], {"weight": [0, 0]})
